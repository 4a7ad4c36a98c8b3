//! Where what a run produces goes: L2's output, events, canonical text, statistics.

use std::fmt;
use std::io::Write;

use exit_trace::canonical::Canonical;
use exit_trace::event;
use exit_trace::record::Record;
use exit_trace::statistics::Statistics;
use exit_trace::symbols::SymbolTable;

use super::SessionError;

/// What becomes of each record.
pub enum Trace<'s> {
    /// Nothing.
    Off,
    /// An event of `tracing`.
    Events(SymbolTable),
    /// A line of canonical text.
    Canonical(Option<Canonical<Box<dyn Write + 's>>>),
}

impl fmt::Debug for Trace<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Off => "Off",
            Self::Events(_) => "Events",
            Self::Canonical(_) => "Canonical",
        })
    }
}

/// Where everything goes.
pub struct Sinks<'s> {
    /// Where L2's output goes.
    pub console: Box<dyn Write + 's>,
    /// What becomes of each record.
    pub trace: Trace<'s>,
    /// Statistics, if wanted.
    pub statistics: Option<Statistics>,
}

impl fmt::Debug for Sinks<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sinks").field("statistics", &self.statistics).finish_non_exhaustive()
    }
}

fn output(what: &'static str) -> impl FnOnce(std::io::Error) -> SessionError {
    move |error| SessionError::Output { what, error }
}

impl Sinks<'_> {
    /// Takes what L2 printed.
    ///
    /// # Errors
    /// [`SessionError::Output`].
    pub fn console(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.console.write_all(bytes).and_then(|()| self.console.flush()).map_err(output("the guest's output"))
    }

    /// Puts a record into the trace.
    ///
    /// # Errors
    /// [`SessionError::Output`].
    pub fn record(&mut self, record: &Record) -> Result<(), SessionError> {
        match &mut self.trace {
            Trace::Events(symbols) => event::emit(record, symbols),
            Trace::Canonical(Some(canonical)) => canonical.push(record).map_err(output("the trace"))?,
            Trace::Off | Trace::Canonical(None) => {}
        }
        Ok(())
    }

    /// Counts a record in the statistics.
    pub fn count(&mut self, record: &Record) {
        if let Some(statistics) = &mut self.statistics {
            statistics.add(record);
        }
    }

    /// Takes the news that records were lost.
    ///
    /// # Errors
    /// [`SessionError::Output`].
    pub fn lost(&mut self, count: u64) -> Result<(), SessionError> {
        event::emit_lost(count);
        if let Trace::Canonical(Some(canonical)) = &mut self.trace {
            canonical.push_lost(count).map_err(output("the trace"))?;
        }
        if let Some(statistics) = &mut self.statistics {
            statistics.add_lost(count);
        }
        Ok(())
    }

    /// Writes what was held back.
    ///
    /// # Errors
    /// [`SessionError::Output`].
    pub fn finish(&mut self) -> Result<(), SessionError> {
        if let Trace::Canonical(canonical) = &mut self.trace
            && let Some(canonical) = canonical.take()
        {
            canonical.finish().and_then(|mut writer| writer.flush()).map_err(output("the trace"))?;
        }
        self.console.flush().map_err(output("the guest's output"))
    }
}

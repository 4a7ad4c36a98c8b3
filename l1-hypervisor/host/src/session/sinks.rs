//! Where what a run produces goes: L2's output, events, canonical text, statistics.

use std::fmt;
use std::io::Write;

use exit_trace::canonical::Canonical;
use exit_trace::event::{self, Emitter};
use exit_trace::record::Record;
use exit_trace::statistics::Statistics;
use exit_trace::tree::Tree;

use super::SessionError;

/// What becomes of each record.
pub enum Trace<'s> {
    /// Nothing.
    Off,
    /// An event of `tracing`.
    Events(Emitter),
    /// A line of a tree.
    Tree(Option<Tree<Box<dyn Write + 's>>>),
    /// A line of canonical text.
    Canonical(Option<Canonical<Box<dyn Write + 's>>>),
}

impl fmt::Debug for Trace<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Off => "Off",
            Self::Events(_) => "Events",
            Self::Tree(_) => "Tree",
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

    /// Takes a record.
    ///
    /// # Errors
    /// [`SessionError::Output`].
    pub fn record(&mut self, record: &Record) -> Result<(), SessionError> {
        match &mut self.trace {
            Trace::Events(emitter) => emitter.emit(record),
            Trace::Tree(Some(tree)) => tree.push(record).map_err(output("the trace"))?,
            Trace::Canonical(Some(canonical)) => canonical.push(record).map_err(output("the trace"))?,
            Trace::Off | Trace::Tree(None) | Trace::Canonical(None) => {}
        }
        if let Some(statistics) = &mut self.statistics {
            statistics.add(record);
        }
        Ok(())
    }

    /// Takes the news that records were lost.
    ///
    /// # Errors
    /// [`SessionError::Output`].
    pub fn lost(&mut self, count: u64) -> Result<(), SessionError> {
        match &mut self.trace {
            Trace::Events(emitter) => emitter.lost(count),
            _ => event::emit_lost(count),
        }
        match &mut self.trace {
            Trace::Tree(Some(tree)) => tree.push_lost(count).map_err(output("the trace"))?,
            Trace::Canonical(Some(canonical)) => canonical.push_lost(count).map_err(output("the trace"))?,
            _ => {}
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
        match &mut self.trace {
            Trace::Tree(tree) => tree.take().map_or(Ok(()), |tree| tree.finish().map(drop)),
            Trace::Canonical(canonical) => canonical.take().map_or(Ok(()), |canonical| canonical.finish().map(drop)),
            Trace::Off | Trace::Events(_) => Ok(()),
        }
        .map_err(output("the trace"))?;
        self.console.flush().map_err(output("the guest's output"))
    }
}

//! Where events go: messages to standard error, exit events to standard error or a file.

use std::fs::File;
use std::io;
use std::io::{BufWriter, Write};
use std::sync::{Arc, Mutex, PoisonError};

use exit_trace::event::{EXIT_TARGET, NESTED_TARGET};
use tracing_subscriber::filter::{EnvFilter, FilterFn, LevelFilter};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

/// How exit events are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// A file that exit events go to. The subscriber lives as long as the process and is never dropped, so the file must be
/// flushed at the end of a run.
#[derive(Debug, Clone)]
struct EventFile(Arc<Mutex<BufWriter<File>>>);

impl Write for EventFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

/// Writes what is held back when it is dropped.
#[derive(Debug)]
#[must_use = "the file is complete when this is dropped"]
pub struct Guard(Option<EventFile>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(file) = &mut self.0
            && let Err(error) = file.flush()
        {
            eprintln!("error: the trace is not complete: {error}");
        }
    }
}

/// Sets up `tracing` for the program. Without `RUST_LOG`, messages from `verbosity` up are shown, and exit events as
/// soon as `events` asks for them; `RUST_LOG` filters both.
///
/// # Errors
/// If the file for events cannot be made.
pub fn start(verbosity: LevelFilter, events: Option<EventFormat>, file: Option<File>) -> io::Result<Guard> {
    let filter = || match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(text).map_err(io::Error::other),
        _ => Ok(EnvFilter::default().add_directive(verbosity.into())),
    };
    let is_exit = |metadata: &tracing::Metadata<'_>| [EXIT_TARGET, NESTED_TARGET].contains(&metadata.target());
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    let messages = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(colours)
        .without_time()
        .with_target(false)
        .with_filter(FilterFn::new(move |metadata| !is_exit(metadata)))
        .with_filter(filter()?);
    let exit_filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(text).map_err(io::Error::other)?,
        _ => EnvFilter::default().add_directive(LevelFilter::INFO.into()),
    };
    let file = file.map(|file| EventFile(Arc::new(Mutex::new(BufWriter::new(file)))));
    let guard = Guard(file.clone());
    let to_file = file.is_some();
    let writer = match file {
        Some(file) => BoxMakeWriter::new(move || file.clone()),
        None => BoxMakeWriter::new(io::stderr),
    };
    let exits: Option<Box<dyn Layer<_> + Send + Sync>> = events.map(|format| {
        let layer = fmt::layer().with_writer(writer).without_time().with_ansi(!to_file && colours);
        let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
            EventFormat::Pretty => layer.boxed(),
            EventFormat::Json => layer.json().with_current_span(false).with_span_list(false).boxed(),
        };
        layer.with_filter(FilterFn::new(is_exit)).with_filter(exit_filter).boxed()
    });
    // A second start in one process (tests) keeps the first.
    let _ = Registry::default().with(exits).with(messages).try_init();
    Ok(guard)
}

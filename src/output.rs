//! What commands, and a node that starts, write to standard output and standard error.
//!
//! Invariant: nothing ends since its words cannot be written. What a command was asked for is lost then, which is an
//! error of the command; that nobody reads on (a closed pipe) is none.

use crate::logging::error_text;
use anyhow::Context as _;
use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

/// Writes what a command was asked for to standard output.
///
/// # Errors
/// Where it cannot be written, but for a closed pipe.
pub fn say(text: &str) -> anyhow::Result<()> {
    let mut out = Output::new(io::stdout().lock());
    let _ = out.write_all(text.as_bytes());
    out.end()
}

/// A line on standard output of what goes on all the same.
pub fn announce(line: Arguments<'_>) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A line on standard error.
pub fn tell(line: Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Why a command ends, on standard error: the error and its causes, each once.
pub fn fail(command: &str, error: &anyhow::Error) {
    tell(format_args!("{command}: {}", error_text(error.as_ref())));
}

/// A piece of a line on standard error, which is a terminal.
pub fn show(text: Arguments<'_>) {
    let _ = write!(io::stderr().lock(), "{text}");
}

/// Where a command writes piece by piece: no write fails, and the end says whether something was lost.
pub struct Output<W> {
    inner: W,
    lost: Option<io::Error>,
}

impl<W: Write> Output<W> {
    pub const fn new(inner: W) -> Self {
        Self { inner, lost: None }
    }

    /// # Errors
    /// The first failure of a write, but for a closed pipe.
    pub fn end(&mut self) -> anyhow::Result<()> {
        let _ = self.flush();
        let lost = self.lost.take().map_or(Ok(()), Err);
        lost.context("what was to be said is lost: standard output cannot be written")
    }

    fn note(&mut self, error: io::Error) {
        if error.kind() != ErrorKind::BrokenPipe {
            self.lost.get_or_insert(error);
        }
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.inner.write(bytes) {
            // The caller does it again.
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.note(error);
                Ok(bytes.len())
            }
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Err(error) = self.inner.flush() {
            self.note(error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes nothing, for this reason.
    struct Full(ErrorKind);

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_lost_is_an_error_and_a_closed_pipe_is_none() {
        let written = |kind| {
            let mut out = Output::new(Full(kind));
            writeln!(out, "a").unwrap();
            writeln!(out, "b").unwrap();
            out.end()
        };
        let error = format!("{:#}", written(ErrorKind::StorageFull).unwrap_err());
        assert!(
            error.starts_with("what was to be said is lost: standard output"),
            "{error}"
        );
        assert!(written(ErrorKind::BrokenPipe).is_ok());
        let mut out = Output::new(Vec::new());
        write!(out, "{}", 1).unwrap();
        assert!(out.end().is_ok());
        assert_eq!(out.inner, b"1");
    }
}

//! What a program has observed, as a hash, and as text for whoever wants to see it.

use core::fmt::{self, Write};

use crate::println;

/// The hash (FNV-1a, 64 bits) over all lines and values of a program.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    verbose: bool,
}

impl Trace {
    /// An empty one; with `verbose` everything is printed, too.
    #[must_use]
    pub fn new(verbose: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, verbose }
    }

    /// The hash over what there was.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    fn byte(&mut self, byte: u8) {
        self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// A step.
    pub fn line(&mut self, text: fmt::Arguments<'_>) {
        if self.verbose {
            println!("  {text}");
        }
        // Neither this writer nor what is formatted here can fail.
        let _ = self.write_fmt(text);
        self.byte(b'\n');
    }

    /// A value that belongs to the last step. It is hashed as a number, as most programs have thousands of them.
    pub fn value(&mut self, name: &dyn fmt::Display, value: u64) {
        if self.verbose {
            println!("    {name} = {value:#x}");
        }
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }
}

impl Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.byte(byte));
        Ok(())
    }
}

//! Stopping: Ctrl-C (or a plain `kill`) asks a training to end after the step it is in.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// What a program ends with that was stopped, as shells count it.
pub const EXIT_CODE: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Listens from now on. Who asks twice does not want to wait: the program ends at once, and the last checkpoint stands.
///
/// # Errors
/// If the system refuses, or the program listens already.
pub fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_CODE.into());
        }
    })
    .context("cannot listen for Ctrl-C")
}

/// Whether someone has asked.
pub fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

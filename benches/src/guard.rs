//! Calls of others' code that may panic where it should answer with an error.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, anyhow};

/// Runs `call`; a panic in it is an error with the panic's message.
///
/// What the call held is dropped or left as the panic found it: call it with what is not used again after an error.
///
/// # Errors
/// The call's own, or its panic.
pub fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result,
        Err(panic) => Err(anyhow!("it panicked: {}", message(&*panic))),
    }
}

/// What a panic said, its first line: a driver's can be pages long.
fn message(panic: &(dyn Any + Send)) -> &str {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    said.and_then(|text| text.lines().next()).unwrap_or("without a word")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        assert_eq!(guarded(|| Ok(3)).expect("nothing fails"), 3);
        let error = guarded::<()>(|| Err(anyhow!("no memory"))).expect_err("it fails");
        assert_eq!(error.to_string(), "no memory");
        let length = 7;
        let error = guarded::<()>(|| panic!("no room for {length}\nand more")).expect_err("it panics");
        assert_eq!(error.to_string(), "it panicked: no room for 7");
    }
}

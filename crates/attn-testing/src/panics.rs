//! Turns panics into errors, so that one broken case does not take the others with it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Where the last panic of the process happened, if [`quiet`] is on.
static LOCATION: Mutex<Option<String>> = Mutex::new(None);

/// Keeps panics from being printed where they happen; [`catch`] then tells their place too. For programs, not for tests.
pub fn quiet() {
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut location) = LOCATION.lock() {
            *location = info.location().map(ToString::to_string);
        }
    }));
}

/// Runs `f`; a panic becomes its message, with its place if [`quiet`] is on.
///
/// # Errors
/// The message of the panic.
pub fn catch<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    // What `f` may have left half-done is thrown away with it: callers hand over copies.
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        let location = LOCATION.lock().ok().and_then(|mut location| location.take());
        let place = location.map(|location| format!(" at {location}")).unwrap_or_default();
        format!("panicked{place}: {}", message(payload.as_ref()))
    })
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

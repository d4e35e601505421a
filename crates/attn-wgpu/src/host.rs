//! What is decided and prepared on the host.

pub mod arguments;
pub mod backward;
pub mod launch;
pub mod machine;
pub mod taken;
pub mod tiles;
pub mod trial;

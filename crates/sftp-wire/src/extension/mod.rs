//! Extended requests and replies: their names and bodies.
//!
//! [`names`] has the names as they stand on the wire, `request` the bodies of SSH_FXP_EXTENDED, `reply` those
//! of SSH_FXP_EXTENDED_REPLY. Which extensions a server offers, and to whom, is not decided here.

pub mod names;
mod reply;
mod request;

pub use reply::{ExtendedReply, Limits, SpaceAvailable, StatVfs};
pub use request::ExtendedRequest;

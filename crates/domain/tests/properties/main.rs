//! What holds of the policy whatever the records are: of records made at random, and of smaller ones where it does not hold.
//!
//! What fails once is written down beside the file, and tried first from then on.

#![expect(
    clippy::unwrap_used,
    reason = "these are tests, helpers included: what does not hold ends them"
)]

mod decide;
mod narrowing;

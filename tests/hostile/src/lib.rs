//! Hostile input: for every parser that strangers reach, a function that takes any bytes and says what must hold of them.
//!
//! A target is not only about panics. It reads the same bytes in another way, written here from the documentation and not
//! from the product, and the two have to agree; or it looks at what a request left behind. What a target finds wrong is a
//! failed assertion. [`TARGETS`] lists them all; a fuzzer calls them through `fuzz/`, and `tests/corpus.rs` runs each over the
//! inputs that are kept in `fuzz/corpus`.
//!
//! To add a target: a module with one function, a row in [`TARGETS`], a file in `fuzz/fuzz_targets` with its `[[bin]]` in
//! `fuzz/Cargo.toml`, and a few inputs in `fuzz/corpus/<name>`. The tests fail until all of it is there.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::missing_panics_doc,
    reason = "all of this is test code, though fuzz/ calls it: a failed expectation is what a fuzzer looks for"
)]

mod body;
mod cursor;
mod header;
mod key;
mod scope;
mod timestamp;
mod world;

use std::borrow::Cow;

pub use body::body;
pub use cursor::cursor;
pub use header::header;
pub use key::key;
pub use scope::scope;
pub use timestamp::timestamp;

/// What came of an input, in a few words: by these a corpus shows how far it gets.
pub type Came = Cow<'static, str>;

/// One parser, and everything that has to hold of it.
pub struct Target {
    /// What it is called, here and in `fuzz/`.
    pub name: &'static str,
    /// Looks at one input. It fails an assertion where something is wrong.
    pub run: fn(&[u8]) -> Came,
    /// What has to come of some input or other of the corpus that is kept. With nothing but refusals in it, a corpus would
    /// show nothing.
    pub reaches: &'static [&'static str],
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "key",
        run: key,
        reaches: key::REACHES,
    },
    Target {
        name: "header",
        run: header,
        reaches: header::REACHES,
    },
    Target {
        name: "timestamp",
        run: timestamp,
        reaches: timestamp::REACHES,
    },
    Target {
        name: "scope",
        run: scope,
        reaches: scope::REACHES,
    },
    Target {
        name: "cursor",
        run: cursor,
        reaches: cursor::REACHES,
    },
    Target {
        name: "body",
        run: body,
        reaches: body::REACHES,
    },
];

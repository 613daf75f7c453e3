//! The suite that judges every store, on the memory store.

use std::future::{Ready, ready};

use leadr_auth_memory::Memory;
use leadr_auth_ports::{Stores, store_contract};

fn empty_store() -> Ready<((), Stores)> {
    ready(((), Memory::new().stores()))
}

store_contract!(empty_store);

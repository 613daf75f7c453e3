//! Prints the API's description: what `cargo xtask codegen` writes to `docs/openapi.json`.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]

fn main() {
    print!("{}", leadr_auth_http::openapi::json());
}

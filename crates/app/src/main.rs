//! The binary `leadr-auth`.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    leadr_auth_app::cli::run().await
}

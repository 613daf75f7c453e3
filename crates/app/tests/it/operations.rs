//! The command blocks of `docs/operations.md`, run as an operator would: in their order, in one shell, in an empty folder.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use leadr_auth_postgres::testing::{REFERENCE_SECRET, TestDatabase, reference};

const PAGE: &str = include_str!("../../../../docs/operations.md");

/// The blocks that are marked as shell, as one script that stops at the first command which fails. Each announces itself by
/// the line of the page where it begins.
fn script(page: &str) -> (String, usize) {
    let (mut script, mut blocks, mut inside) = ("set -eu\n".to_owned(), 0, false);
    for (n, line) in page.lines().enumerate() {
        match line {
            "```sh" => {
                inside = true;
                blocks += 1;
                writeln!(script, "echo '== line {}'", n + 1).unwrap();
            }
            "```" => inside = false,
            command if inside => {
                script.push_str(command);
                script.push('\n');
            }
            _ => {}
        }
    }
    (script, blocks)
}

/// An address that nobody listens on.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_block_does_what_the_page_says() {
    let (script, blocks) = script(PAGE);
    assert!(blocks >= 8, "the blocks are marked as sh");
    // SQL is run by the tests of the store that it is for.
    let in_sql = PAGE.matches("\n```sql").count();
    assert_eq!(
        PAGE.matches("\n```").count(),
        2 * (blocks + in_sql),
        "every block is run"
    );
    let address = free_address();
    // The page uses the address that a server has by default, which may be somebody's here.
    let script = script.replace("127.0.0.1:8000", &address);
    let folder = tempfile::tempdir().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_leadr-auth"));
    let (new, old) = (TestDatabase::create_empty().await, reference().await);
    let path = format!(
        "{}:/usr/local/bin:/usr/bin:/bin",
        binary.parent().unwrap().display()
    );
    let mut shell = Command::new("sh");
    shell
        // Whatever happens, the server that the script leaves running ends with it.
        .args([
            "-c",
            "trap 'kill ${SERVER:-} 2>/dev/null || true' EXIT; . ./script",
        ])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", path)
        .env("LISTEN", &address)
        .env("NEW_DATABASE_URL", new.url())
        .env("REFERENCE_DATABASE_URL", old.url())
        .env("REFERENCE_SECRET", REFERENCE_SECRET);
    std::fs::write(folder.path().join("script"), script).unwrap();
    let output = shell.output().unwrap();
    let (told, log) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{told}\n{log}");
}

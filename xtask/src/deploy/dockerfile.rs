//! The Dockerfile. hadolint finds more, but Debian has no package of it; these are the faults that would hurt most, and
//! those that no linter can know.
//!
//! A new rule is a few lines in [`faults`].

use super::{Settings, is_pinned, is_secret};

/// What the Dockerfile is compared with.
pub(super) struct Tree<'a> {
    /// The text of `rust-toolchain.toml`.
    pub(super) toolchain: &'a str,
    /// The text of `.dockerignore`.
    pub(super) ignored: &'a str,
    /// Whether there is such a file or folder.
    pub(super) exists: &'a dyn Fn(&str) -> bool,
}

impl Tree<'_> {
    /// Why a path does not reach the build, if so. `.dockerignore` begins by leaving out everything.
    fn missing(&self, path: &str) -> Option<String> {
        let path = path.trim_start_matches("./").trim_end_matches('/');
        if !(self.exists)(path) {
            return Some(format!("COPY of {path}, which is not there"));
        }
        let mut rules = self.ignored.lines().map(str::trim);
        let allowed = rules.any(|rule| {
            rule.strip_prefix('!').is_some_and(|allowed| {
                path == allowed
                    || path
                        .strip_prefix(allowed)
                        .is_some_and(|rest| rest.starts_with('/'))
            })
        });
        (!allowed).then(|| format!("COPY of {path}, which .dockerignore leaves out"))
    }
}

/// An instruction with all its lines.
struct Instruction {
    /// In capitals.
    name: String,
    arguments: String,
}

impl Instruction {
    fn words(&self) -> impl Iterator<Item = &str> {
        self.arguments.split_whitespace()
    }

    /// The words that are no flags such as `--chown=…`.
    fn operands(&self) -> Vec<&str> {
        self.words()
            .skip_while(|word| word.starts_with("--"))
            .collect()
    }

    /// The variables that `ENV a=1 b=2`, `ENV a 1` or `ARG a` names.
    fn variables(&self) -> Vec<&str> {
        let named: Vec<&str> = self
            .words()
            .filter_map(|word| word.split_once('=').map(|(name, _)| name))
            .collect();
        if named.is_empty() {
            self.words().take(1).collect()
        } else {
            named
        }
    }
}

fn instructions(text: &str) -> Vec<Instruction> {
    let mut instructions = Vec::new();
    let mut whole = String::new();
    // Comments and blank lines may stand between the lines of an instruction.
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(part) = line.strip_suffix('\\') {
            whole.push_str(part);
            whole.push(' ');
            continue;
        }
        whole.push_str(line);
        let (name, arguments) = whole
            .split_once(char::is_whitespace)
            .unwrap_or((&whole, ""));
        instructions.push(Instruction {
            name: name.to_ascii_uppercase(),
            arguments: arguments.trim().to_owned(),
        });
        whole.clear();
    }
    instructions
}

/// What is wrong with a Dockerfile.
pub(super) fn faults(text: &str, tree: &Tree<'_>, settings: &Settings) -> Vec<String> {
    let instructions = instructions(text);
    let mut faults = Vec::new();
    if tree.ignored.lines().find(|line| !line.starts_with('#')) != Some("*") {
        faults
            .push(".dockerignore does not begin with `*`, which leaves out everything".to_owned());
    }
    let mut stages: Vec<&str> = Vec::new();
    for instruction in &instructions {
        match instruction.name.as_str() {
            "FROM" => {
                let operands = instruction.operands();
                let image = operands.first().copied().unwrap_or_default();
                if !stages.contains(&image) && image != "scratch" && !is_pinned(image) {
                    faults.push(format!("FROM {image}, which is not a version's tag"));
                }
                faults.extend(toolchain_fault(image, tree.toolchain));
                if let [_, "AS" | "as", name, ..] = operands.as_slice() {
                    stages.push(name);
                }
            }
            "ADD" => faults.push("ADD unpacks and downloads; COPY does what is said".to_owned()),
            "ENV" | "ARG" => {
                let variables = instruction.variables();
                // Of the database's URL, the password is a part.
                let kept = |name: &&str| is_secret(name) || *name == "DATABASE_URL";
                for name in variables.into_iter().filter(kept) {
                    faults.push(format!(
                        "{} {name}: an image keeps its values for all to read",
                        instruction.name
                    ));
                }
            }
            "COPY" if !instruction.words().any(|word| word.starts_with("--from=")) => {
                let operands = instruction.operands();
                let sources = operands
                    .split_last()
                    .map_or(&[][..], |(_, sources)| sources);
                faults.extend(sources.iter().filter_map(|source| tree.missing(source)));
            }
            _ => {}
        }
    }
    let last_stage = instructions
        .iter()
        .rposition(|instruction| instruction.name == "FROM")
        .and_then(|start| instructions.get(start..))
        .unwrap_or_default();
    faults.extend(runtime_faults(last_stage, settings));
    faults
}

/// An image of Rust has to be of the toolchain that the repository names.
fn toolchain_fault(image: &str, toolchain: &str) -> Option<String> {
    let version = image.strip_prefix("rust:")?.split(['-', '@']).next()?;
    let channel = toolchain
        .lines()
        .find_map(|line| line.strip_prefix("channel = "))?
        .trim_matches('"');
    (version != channel).then(|| format!("FROM {image}, and rust-toolchain.toml says {channel}"))
}

/// What holds for the stage that runs.
fn runtime_faults(stage: &[Instruction], settings: &Settings) -> Vec<String> {
    let last = |name: &str| {
        let found = stage.iter().rfind(|instruction| instruction.name == name);
        found.map(|instruction| instruction.arguments.as_str())
    };
    let mut faults = Vec::new();
    let user = last("USER").and_then(|user| user.split(':').next());
    if !user.is_some_and(|user| user.parse().is_ok_and(|id: u32| id > 0)) {
        faults.push("USER is not the number of somebody other than root".to_owned());
    }
    let is_list = |arguments: &str| arguments.starts_with('[') && arguments.ends_with(']');
    if !last("ENTRYPOINT").is_some_and(is_list) {
        faults.push("ENTRYPOINT is not a list, so that signals end in a shell".to_owned());
    }
    if !last("CMD").is_none_or(is_list) {
        faults.push("CMD is not a list".to_owned());
    }
    let variables = stage.iter().filter(|instruction| instruction.name == "ENV");
    let unknown = variables
        .flat_map(Instruction::variables)
        .filter_map(|name| settings.unknown(name));
    faults.extend(unknown);
    faults
}

#[cfg(test)]
mod tests {
    use super::super::tests::settings;
    use super::*;

    const GOOD: &str = r#"
# A comment.
FROM rust:1.95.0-slim-bookworm AS build
ARG PROFILE=release
COPY Cargo.toml ./Cargo.lock ./
COPY crates/ crates
RUN --mount=type=cache,target=/x \
    # Between two lines.
    cargo build --locked \
    && true
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build --chown=1:1 /out/leadr-auth /usr/bin/
ENV DATA_DIR=/data \
    LISTEN=0.0.0.0:8000
USER 65532:65532
ENTRYPOINT ["/usr/bin/leadr-auth"]
CMD ["serve"]
"#;
    const IGNORED: &str = "# Left out.\n*\n!Cargo.toml\n!Cargo.lock\n!crates\n";

    fn all_faults(text: &str, ignored: &str) -> Vec<String> {
        let tree = Tree {
            toolchain: "[toolchain]\nchannel = \"1.95.0\"\n",
            ignored,
            exists: &|path| ["Cargo.toml", "Cargo.lock", "crates", "docs"].contains(&path),
        };
        faults(text, &tree, &settings())
    }

    #[test]
    fn a_good_file_passes() {
        assert_eq!(all_faults(GOOD, IGNORED), [""; 0]);
        let by_stage = GOOD.replace("gcr.io/distroless/cc-debian12:nonroot", "build");
        assert_eq!(all_faults(&by_stage, IGNORED), [""; 0]);
    }

    #[test]
    fn each_fault_is_found() {
        for (from, to, what) in [
            ("debian12:nonroot", "debian12", "FROM"),
            ("debian12:nonroot", "debian12:latest", "FROM"),
            ("rust:1.95.0-", "rust:1.94.0-", "rust-toolchain.toml"),
            ("rust:1.95.0-", "rust:1-", "rust-toolchain.toml"),
            ("COPY crates/ crates", "ADD crates/ crates", "ADD"),
            ("COPY crates/ crates", "COPY crate/ crates", "not there"),
            ("COPY crates/ crates", "COPY docs docs", ".dockerignore"),
            ("ARG PROFILE=release", "ARG DATABASE_PASSWORD", "ARG"),
            (
                "ARG PROFILE=release",
                "ENV DATABASE_URL=postgres://x",
                "ENV",
            ),
            ("LISTEN=0", "LISTEN_ON=0", "LISTEN_ON"),
            ("USER 65532:65532\n", "", "USER"),
            ("USER 65532:65532", "USER 0:65532", "USER"),
            ("USER 65532:65532", "USER nonroot", "USER"),
            ("USER 65532:65532", "USER 65532\nUSER root", "USER"),
            (
                "[\"/usr/bin/leadr-auth\"]",
                "/usr/bin/leadr-auth",
                "ENTRYPOINT",
            ),
            ("ENTRYPOINT", "#", "ENTRYPOINT"),
            ("[\"serve\"]", "serve", "CMD"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let found = all_faults(&GOOD.replace(from, to), IGNORED);
            assert_eq!(found.len(), 1, "{to}: {found:?}");
            assert!(found[0].contains(what), "{to}: {found:?}");
        }
        // What the last stage does not say, an earlier one does not say for it.
        let early = GOOD.replace("USER 65532:65532\n", "");
        let early = early.replace("ARG PROFILE=release", "USER 65532");
        assert_eq!(all_faults(&early, IGNORED).len(), 1);
    }

    #[test]
    fn secrets_are_found_in_both_ways_of_env() {
        for line in ["ENV API_KEY_SECRET abc", "ENV LISTEN=x API_KEY_SECRET=abc"] {
            let text = GOOD.replace("USER", &format!("{line}\nUSER"));
            let found = all_faults(&text, IGNORED);
            assert_eq!(found.len(), 1, "{line}: {found:?}");
        }
    }

    #[test]
    fn the_context_leaves_out_everything_first() {
        let found = all_faults(GOOD, &IGNORED.replace("*\n", "target\n"));
        assert_eq!(found.len(), 1, "{found:?}");
    }
}

//! What every member's Cargo.toml must say: the workspace's lints, and no versions of its own.
//!
//! Read line by line, which is enough for manifests written in the usual way, and needs no parser.

/// What is wrong with a manifest.
pub(crate) fn faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let sections = sections(text);
    let inherits = |(name, lines): &(&str, Vec<&str>)| {
        *name == "lints" && lines.iter().any(|line| squeeze(line) == "workspace=true")
    };
    if !sections.iter().any(inherits)
        && !sections.iter().any(|(name, lines)| {
            name.is_empty()
                && lines
                    .iter()
                    .any(|line| squeeze(line) == "lints.workspace=true")
        })
    {
        faults.push("does not take the workspace's lints (`[lints] workspace = true`)".to_owned());
    }
    for (name, lines) in &sections {
        faults.extend(dependency_faults(name, lines));
    }
    faults
}

fn dependency_faults(section: &str, lines: &[&str]) -> Vec<String> {
    let own_version = |name: &str| {
        format!("{name} does not take its version from the workspace (`{name}.workspace = true`)")
    };
    // `[dependencies.tokio]`, `[target.'cfg(unix)'.dev-dependencies.tokio]`
    if let Some((_, name)) = section.split_once("dependencies.") {
        let inherited = lines.iter().any(|line| squeeze(line) == "workspace=true");
        return if inherited {
            Vec::new()
        } else {
            vec![own_version(name)]
        };
    }
    if !section.ends_with("dependencies") {
        return Vec::new();
    }
    let entries = lines.iter().filter_map(|line| line.split_once('='));
    let own = entries.filter(|(key, value)| !is_inherited(key, value));
    own.map(|(key, _)| own_version(key.trim().split('.').next().unwrap_or_default()))
        .collect()
}

/// `tokio.workspace = true`, or `tokio = { workspace = true, .. }`.
fn is_inherited(key: &str, value: &str) -> bool {
    let dotted = key.trim().ends_with(".workspace") && squeeze(value) == "true";
    dotted || squeeze(value).contains("workspace=true")
}

/// The lines under each `[heading]`, without comments and continued lists; those before the first are under "".
fn sections(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut sections = vec![("", Vec::new())];
    for line in text.lines().map(str::trim) {
        let heading = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        if let Some((name, _)) = heading {
            sections.push((name.trim_start_matches('['), Vec::new()));
        } else if !line.starts_with(['#', '"', ']', '}'])
            && let Some((_, lines)) = sections.last_mut()
        {
            lines.push(line);
        }
    }
    sections
}

/// Without spaces and without a comment at the end.
fn squeeze(text: &str) -> String {
    let code = text.split('#').next().unwrap_or_default();
    code.chars().filter(|c| !c.is_whitespace()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[package]
name = "leadr-auth-ports"
version.workspace = true

[lints]
workspace = true

[dependencies]
# The workspace says which version.
async-trait.workspace = true
mockall = { workspace = true, optional = true }
tokio = { workspace = true, features = [
    "rt",
    "sync",
] }

[dev-dependencies.time]
workspace = true # see above

[features]
mock = ["dep:mockall"]
"#;

    #[test]
    fn a_manifest_that_inherits_everything_passes() {
        assert_eq!(faults(GOOD), [""; 0]);
    }

    #[test]
    fn missing_lints_are_found() {
        let text = GOOD.replace("[lints]\nworkspace = true", "");
        assert_eq!(faults(&text).len(), 1, "{:?}", faults(&text));
        assert_eq!(
            faults(&text.replace("[package]", "lints.workspace = true\n[package]")),
            [""; 0]
        );
        let own = GOOD.replace(
            "[lints]\nworkspace = true",
            "[lints.rust]\nunsafe_code = \"allow\"",
        );
        assert_eq!(faults(&own).len(), 1);
    }

    #[test]
    fn versions_of_its_own_are_found() {
        for (from, to, name) in [
            (
                "async-trait.workspace = true",
                "async-trait = \"0.1\"",
                "async-trait",
            ),
            (
                "mockall = { workspace = true,",
                "mockall = { version = \"1\",",
                "mockall",
            ),
            (
                "async-trait.workspace = true",
                "async-trait.path = \"../x\"",
                "async-trait",
            ),
            ("workspace = true # see above", "version = \"0.3\"", "time"),
        ] {
            let found = faults(&GOOD.replace(from, to));
            assert_eq!(found.len(), 1, "{to}: {found:?}");
            assert!(found[0].starts_with(name), "{to}: {found:?}");
        }
        let unix = format!("{GOOD}\n[target.'cfg(unix)'.dependencies]\nlibc = \"0.2\"\n");
        assert_eq!(faults(&unix).len(), 1);
    }
}

//! Who may depend on whom: the table of ARCHITECTURE.md, and the check of it.
//!
//! Only what ships counts: a test may depend on anything. A new crate gets a row in [`ROOMS`]; a dependency that one crate
//! should keep to itself gets one in [`OWNERS`].

use serde_json::Value;

use crate::sh::{self, Failure, Outcome};

/// Each crate of the workspace, and the crates of the workspace that it may depend on.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("ports", &["domain"]),
    ("service", &["domain", "ports"]),
    ("memory", &["domain", "ports"]),
    ("postgres", &["domain", "ports"]),
    ("sqlite", &["domain", "ports"]),
    ("http", &["domain", "service"]),
    (
        "app",
        &[
            "domain", "http", "memory", "ports", "postgres", "service", "sqlite",
        ],
    ),
    ("tests", &[]),
    // Test code in a library, because fuzz/ calls it too.
    ("hostile", &["domain", "http", "memory", "ports", "service"]),
    // It makes keys to import, and is measured by nobody.
    ("load", &["domain"]),
    ("xtask", &[]),
];

/// Crates of others, and whose they are here; a `*` stands for any ending.
const OWNERS: &[(&str, &[&str])] = &[
    ("actix-web", &["app", "hostile", "http"]),
    ("anyhow", &["app"]),
    ("base64", &["domain"]),
    ("clap", &["app"]),
    ("deadpool*", &["postgres"]),
    ("diesel*", &["postgres", "sqlite"]),
    ("libsqlite3-sys", &["sqlite"]),
    ("mockall", &["ports"]),
    ("opentelemetry*", &["app"]),
    ("prometheus-client", &["http"]),
    ("rcgen", &["postgres"]),
    // In the app to reach a collector.
    ("reqwest", &["app"]),
    // In the app for the operating system's randomness.
    ("ring", &["app", "domain"]),
    ("rustls*", &["app", "postgres"]),
    ("tokio-postgres*", &["postgres"]),
    ("tokio-rustls", &["postgres"]),
    ("tracing-subscriber", &["app"]),
    ("utoipa", &["http"]),
];

/// Crates that are nobody's unless asked for: they must stay behind a feature.
const OPTIONAL: &[&str] = &["mockall", "opentelemetry*", "rcgen", "reqwest"];

/// A crate of the workspace, as `cargo metadata` describes it.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Relative to the workspace's folder.
    pub(crate) manifest: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug)]
struct Dependency {
    name: String,
    optional: bool,
}

impl Member {
    /// `leadr-auth-http` lives in `http`: the table uses the short names.
    fn room(&self) -> &str {
        room_of(&self.name)
    }
}

fn room_of(package: &str) -> &str {
    package.strip_prefix("leadr-auth-").unwrap_or(package)
}

/// The members of the workspace, from cargo.
pub(crate) fn members() -> Outcome<Vec<Member>> {
    let mut cargo = sh::cargo(["metadata", "--format-version", "1", "--no-deps", "--locked"]);
    let text = sh::output(&mut cargo)?;
    let metadata: Value = serde_json::from_str(&text).map_err(Failure::when("cargo metadata"))?;
    let root = sh::root().to_string_lossy();
    read(&metadata, &root).ok_or_else(|| Failure::new("cargo metadata: not of the expected form"))
}

fn read(metadata: &Value, root: &str) -> Option<Vec<Member>> {
    let packages = metadata.get("packages")?.as_array()?;
    packages
        .iter()
        .map(|package| read_member(package, root))
        .collect()
}

fn read_member(package: &Value, root: &str) -> Option<Member> {
    let manifest = package.get("manifest_path")?.as_str()?;
    let manifest = manifest
        .strip_prefix(root)
        .unwrap_or(manifest)
        .trim_start_matches('/');
    let dependencies = package.get("dependencies")?.as_array()?;
    Some(Member {
        name: package.get("name")?.as_str()?.to_owned(),
        manifest: manifest.to_owned(),
        // Those for tests and build scripts have a kind; what ships has none.
        dependencies: dependencies
            .iter()
            .filter(|dependency| dependency.get("kind").is_none_or(Value::is_null))
            .map(|dependency| {
                Some(Dependency {
                    name: dependency.get("name")?.as_str()?.to_owned(),
                    optional: dependency.get("optional")?.as_bool()?,
                })
            })
            .collect::<Option<_>>()?,
    })
}

/// Every arrow that should not be, each with what is allowed instead.
pub(crate) fn faults(members: &[Member]) -> Vec<String> {
    let ours: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let mut faults = Vec::new();
    for member in members {
        let Some((_, allowed)) = ROOMS.iter().find(|(room, _)| *room == member.room()) else {
            faults.push(format!(
                "{}: {} has no row in the table of xtask/src/arrows.rs",
                member.manifest, member.name
            ));
            continue;
        };
        for dependency in &member.dependencies {
            let fault = if ours.contains(&dependency.name.as_str()) {
                inner_fault(member.room(), allowed, &dependency.name)
            } else {
                outer_fault(member.room(), dependency)
            };
            faults.extend(fault.map(|fault| {
                format!(
                    "{}: {} -> {}: {fault}",
                    member.manifest, member.name, dependency.name
                )
            }));
        }
    }
    faults
}

fn inner_fault(room: &str, allowed: &[&str], dependency: &str) -> Option<String> {
    if allowed.contains(&room_of(dependency)) {
        return None;
    }
    let allowed = if allowed.is_empty() {
        "no crate of ours".to_owned()
    } else {
        allowed.join(", ")
    };
    Some(format!("{room} may depend on {allowed}"))
}

fn outer_fault(room: &str, dependency: &Dependency) -> Option<String> {
    let name = dependency.name.as_str();
    let (_, owners) = OWNERS.iter().find(|(pattern, _)| matches(pattern, name))?;
    if !owners.contains(&room) {
        return Some(format!("it belongs to {}", owners.join(", ")));
    }
    let optional = OPTIONAL.iter().any(|pattern| matches(pattern, name));
    let forced = optional && !dependency.optional;
    forced.then(|| "only behind a feature (optional = true)".to_owned())
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members from lines such as `http: service domain actix-web`; a `?` marks an optional dependency.
    fn table(lines: &[&str]) -> Vec<Member> {
        let member = |line: &&str| {
            let (name, dependencies) = line.split_once(':').unwrap();
            let dependency = |word: &str| Dependency {
                name: word.trim_end_matches('?').to_owned(),
                optional: word.ends_with('?'),
            };
            Member {
                name: name.to_owned(),
                manifest: format!("{name}.toml"),
                dependencies: dependencies.split_whitespace().map(dependency).collect(),
            }
        };
        lines.iter().map(member).collect()
    }

    const GOOD: &[&str] = &[
        "leadr-auth-domain: base64 ring time uuid",
        "leadr-auth-ports: leadr-auth-domain async-trait mockall? tokio?",
        "leadr-auth-service: leadr-auth-domain leadr-auth-ports tokio",
        "leadr-auth-memory: leadr-auth-domain leadr-auth-ports",
        "leadr-auth-postgres: leadr-auth-ports diesel diesel-async diesel_migrations deadpool tokio-postgres rustls rcgen?",
        "leadr-auth-http: leadr-auth-domain leadr-auth-service actix-web prometheus-client utoipa",
        "leadr-auth-sqlite: leadr-auth-ports diesel diesel_migrations libsqlite3-sys",
        "leadr-auth-app: leadr-auth-domain leadr-auth-http leadr-auth-memory leadr-auth-ports \
         leadr-auth-postgres leadr-auth-service actix-web anyhow clap ring tracing-subscriber",
        "leadr-auth-tests:",
        "xtask: serde_json",
    ];

    #[test]
    fn the_table_as_it_is_meant_passes() {
        assert_eq!(faults(&table(GOOD)), [""; 0]);
    }

    #[test]
    fn a_forbidden_arrow_inside_the_workspace_is_named() {
        let mut lines = GOOD.to_vec();
        lines.retain(|line| !line.starts_with("leadr-auth-http"));
        lines.push("leadr-auth-http: leadr-auth-domain leadr-auth-ports");
        assert_eq!(
            faults(&table(&lines)),
            [
                "leadr-auth-http.toml: leadr-auth-http -> leadr-auth-ports: http may depend on domain, service"
            ]
        );
    }

    #[test]
    fn every_direction_that_matters_is_closed() {
        for (from, to) in [
            ("domain", "ports"),
            ("ports", "service"),
            ("service", "memory"),
            ("memory", "postgres"),
            ("postgres", "service"),
            ("http", "app"),
            ("app", "tests"),
            ("tests", "app"),
        ] {
            let (from, to) = (format!("leadr-auth-{from}"), format!("leadr-auth-{to}"));
            let lines = [format!("{from}: {to}"), format!("{to}:")];
            let found = faults(&table(&lines.each_ref().map(String::as_str)));
            assert_eq!(found.len(), 1, "{from} -> {to}: {found:?}");
        }
        assert_eq!(
            faults(&table(&["xtask: leadr-auth-domain", "leadr-auth-domain:"])).len(),
            1
        );
    }

    #[test]
    fn crates_of_others_stay_with_their_owner() {
        for line in [
            "leadr-auth-service: diesel",
            "leadr-auth-app: diesel-async",
            "leadr-auth-service: deadpool-runtime",
            "leadr-auth-memory: tokio-postgres",
            "leadr-auth-sqlite: tokio-postgres-rustls",
            "leadr-auth-service: rustls-native-certs",
            "leadr-auth-sqlite: deadpool",
            "leadr-auth-app: libsqlite3-sys",
            "leadr-auth-service: actix-web",
            "leadr-auth-app: utoipa",
            "leadr-auth-http: clap",
            "xtask: anyhow",
            "leadr-auth-service: tracing-subscriber",
            "leadr-auth-service: mockall?",
            "leadr-auth-http: ring",
            "leadr-auth-app: base64",
            "leadr-auth-service: prometheus-client",
            "leadr-auth-http: opentelemetry_sdk?",
            "leadr-auth-service: opentelemetry-otlp?",
            "leadr-auth-postgres: reqwest?",
        ] {
            let found = faults(&table(&[line]));
            assert_eq!(found.len(), 1, "{line}: {found:?}");
            assert!(found[0].contains("it belongs to"), "{found:?}");
        }
    }

    #[test]
    fn what_few_need_stays_behind_a_feature() {
        let found = faults(&table(&["leadr-auth-ports: mockall"]));
        assert_eq!(found.len(), 1);
        assert!(
            found[0].ends_with("only behind a feature (optional = true)"),
            "{found:?}"
        );
        for (line, faulty) in [
            ("leadr-auth-app: opentelemetry_sdk", 1),
            ("leadr-auth-app: opentelemetry_sdk? reqwest?", 0),
        ] {
            assert_eq!(faults(&table(&[line])).len(), faulty, "{line}");
        }
    }

    #[test]
    fn a_crate_outside_the_table_is_a_fault() {
        let found = faults(&table(&["leadr-auth-extra:"]));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("has no row"), "{found:?}");
    }

    #[test]
    fn only_what_ships_is_read_from_the_metadata() {
        let text = r#"{"packages": [{
            "name": "leadr-auth-domain",
            "manifest_path": "/somewhere/crates/domain/Cargo.toml",
            "dependencies": [
                {"name": "ring", "kind": null, "optional": false},
                {"name": "mockall", "kind": "dev", "optional": false},
                {"name": "cc", "kind": "build", "optional": false}
            ]
        }]}"#;
        let members = read(&serde_json::from_str(text).unwrap(), "/somewhere").unwrap();
        assert_eq!(members[0].manifest, "crates/domain/Cargo.toml");
        let names: Vec<&str> = members[0]
            .dependencies
            .iter()
            .map(|dependency| dependency.name.as_str())
            .collect();
        assert_eq!(names, ["ring"]);
        assert!(read(&Value::Null, "/somewhere").is_none());
    }
}

//! Every target over the inputs that are kept: what a fuzzer once reached is reached with every run of the tests.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests, helpers included: what does not hold ends them"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use leadr_auth_hostile::{TARGETS, Target};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// The inputs of a target, each with the name of its file.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = fuzz().join("corpus").join(target.name);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let input = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, fs::read(path).unwrap())
    };
    let mut inputs: Vec<_> = entries.map(input).collect();
    inputs.sort();
    inputs
}

/// Runs one target over its corpus: nothing fails, and it gets as far as it should.
fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let inputs = corpus(target);
    assert!(inputs.len() >= 10, "{name}: {} inputs", inputs.len());
    let mut came = BTreeSet::new();
    for (file, input) in &inputs {
        // What fails says by itself what is wrong; this says of which input.
        let result = std::panic::catch_unwind(|| (target.run)(input));
        came.insert(result.unwrap_or_else(|_| panic!("fuzz/corpus/{name}/{file} fails")));
    }
    let missed = target
        .reaches
        .iter()
        .filter(|reached| !came.contains(**reached));
    let missed: Vec<_> = missed.collect();
    assert!(
        missed.is_empty(),
        "{name}: no input comes to {missed:?}, but to {came:?}"
    );
}

macro_rules! corpora {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })+

        /// A target that is new has its test, its corpus and its place in `fuzz/` and in the command.
        #[test]
        fn no_target_is_left_out() {
            let named: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(named, [$(stringify!($name)),+]);
            let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
            let command = fs::read_to_string(fuzz().join("../xtask/src/fuzz.rs")).unwrap();
            for name in named {
                assert!(command.contains(&format!("(\"{name}\", ")), "{name}");
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
                let file = fuzz().join(format!("fuzz_targets/{name}.rs"));
                let text = fs::read_to_string(file).unwrap();
                assert!(text.contains(&format!("leadr_auth_hostile::{name}(")), "{name}");
            }
        }
    };
}

corpora! { key header timestamp scope cursor body }

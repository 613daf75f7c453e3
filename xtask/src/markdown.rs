//! Links in Markdown files.

/// The files that a text links to: relative targets, without their anchors. Code is passed over.
pub(crate) fn relative_links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~") {
            in_code = !in_code;
        } else if !in_code {
            links.extend(targets(line).iter().filter_map(|target| file_of(target)));
        }
    }
    links
}

/// `[text](target)`, `[text](target "title")`, and `[name]: target` at the start of a line.
fn targets(line: &str) -> Vec<String> {
    // Every second piece between backticks is code.
    let prose: String = line.split('`').step_by(2).collect();
    let mut targets: Vec<String> = prose
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect();
    let definition = prose
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]: "));
    targets.extend(definition.map(|(_, target)| target.to_owned()));
    targets
}

/// The path in a target, if it points into the repository.
fn file_of(target: &str) -> Option<String> {
    let address = target.split_whitespace().next()?.trim_matches(['<', '>']);
    let path = address.split('#').next()?;
    let elsewhere = path.contains("://") || path.starts_with("mailto:") || path.is_empty();
    (!elsewhere).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_links_are_found() {
        let text = "See [one](docs/one.md) and ![two](two.png \"title\"), [`three`](<../three.md#part>).\n\
                    [four]: four.md\n- [five][four] [six](six/)\n";
        let expected = ["docs/one.md", "two.png", "../three.md", "four.md", "six/"];
        assert_eq!(relative_links(text), expected);
    }

    #[test]
    fn other_links_and_code_are_not() {
        let text = "[a](https://example.org/x.md) [b](#part) [c](mailto:me@example.org) `[d](d.md)`\n\
                    ```\n[e](e.md)\n```\n[f]: https://example.org\n- [ ] to do (really)\n";
        assert_eq!(relative_links(text), [""; 0]);
        assert_eq!(relative_links("```\n[e](e.md)\n```\n[f](f.md)"), ["f.md"]);
    }
}

//! What the doc comments of `src/message` say about the shape of each message.

const FILES: [&str; 7] = [
    include_str!("../../src/message/command.rs"),
    include_str!("../../src/message/credit.rs"),
    include_str!("../../src/message/fleet.rs"),
    include_str!("../../src/message/ops.rs"),
    include_str!("../../src/message/register.rs"),
    include_str!("../../src/message/status.rs"),
    include_str!("../../src/message/usage.rs"),
];

/// The names of a message's elements as its doc comment gives them; the first is the version, `1`.
pub(crate) fn documented(message: &str) -> Vec<String> {
    let (before, _) = find(message);
    let mut lines: Vec<&str> = before
        .lines()
        .rev()
        .take_while(|line| line.trim_start().starts_with("///"))
        .map(|line| line.trim_start().trim_start_matches("///").trim())
        .collect();
    lines.reverse();
    let text = lines.join(" ");
    let (_, shape) = text
        .split_once("`[")
        .unwrap_or_else(|| panic!("the doc comment of {message} shows no array"));
    let (shape, _) = shape.split_once("]`").unwrap();
    shape
        .split(", ")
        .map(|name| {
            let plain = name.strip_suffix(" / null").unwrap_or(name);
            plain.trim_matches(['[', ']', '{', '}']).to_owned()
        })
        .collect()
}

/// The names of a message's fields, as declared.
pub(crate) fn declared(message: &str) -> Vec<String> {
    let (_, after) = find(message);
    let (body, _) = after.split_once("\n    }").unwrap();
    body.lines()
        .filter_map(|line| line.trim().strip_prefix("pub "))
        .filter_map(|field| field.split_once(':'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

fn find(message: &str) -> (&'static str, &'static str) {
    let head = format!("    pub struct {message}[version] {{");
    FILES
        .iter()
        .find_map(|file| file.split_once(&head))
        .unwrap_or_else(|| panic!("no message {message} in src/message"))
}

/// Every message with a version of its own.
pub(crate) fn messages() -> Vec<String> {
    FILES
        .iter()
        .flat_map(|file| file.lines())
        .filter_map(|line| line.strip_prefix("    pub struct "))
        .filter_map(|line| line.strip_suffix("[version] {"))
        .map(str::to_owned)
        .collect()
}

//! The harness's own promises: a test that waits, or that looks for errors, has to be able to fail.

use std::path::Path;
use std::time::Duration;

use simquota_tests::process::{Child, LIMIT, Stream, await_fact};

fn shell(script: &str) -> Child {
    Child::spawn(Path::new("/bin/sh"), &["-c", script], &[("WHO", "cloud")]).unwrap()
}

#[test]
fn lines_of_both_streams_are_found_and_marked() {
    let mut child = shell("echo $WHO up; read -r _ </dev/null; echo ready >&2; exit 3");
    assert_eq!(child.wait_exit(LIMIT).unwrap().code(), Some(3));
    let up = child.wait_line(|line| line == "cloud up", LIMIT).unwrap();
    assert_eq!(up.stream, Stream::Stdout);
    child.wait_line(|line| line == "ready", LIMIT).unwrap();
    assert_eq!(child.mark(), 2);
    let error = child.wait_line_after(2, |_| true, LIMIT).unwrap_err();
    assert!(
        error.to_string().contains("ended without the line"),
        "{error}"
    );
    assert!(error.to_string().contains("ready"), "{error}");
}

#[test]
fn terminate_can_be_caught_and_kill9_cannot() {
    let trap = "trap 'echo leaving; exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let mut child = shell(trap);
    child.wait_line(|line| line == "up", LIMIT).unwrap();
    child.terminate().unwrap();
    assert!(child.wait_exit(LIMIT).unwrap().success());
    child.wait_line(|line| line == "leaving", LIMIT).unwrap();
    child.terminate().unwrap();

    let mut child = shell(trap);
    child.wait_line(|line| line == "up", LIMIT).unwrap();
    child.kill9().unwrap();
    assert_eq!(child.wait_exit(LIMIT).unwrap().code(), None);
    assert!(child.wait_line(|line| line == "leaving", LIMIT).is_err());
}

#[test]
fn errors_that_are_not_allowed_fail_the_test() {
    let mut child = shell(
        "echo '2026-11-22T10:00:00Z ERROR edge: store is full'; echo 'no ERROR here, only talk of one'",
    );
    child.wait_exit(LIMIT).unwrap();
    child.assert_no_errors(&["store is full"]);
    let unexpected = std::panic::catch_unwind(|| child.assert_no_errors(&["disk is slow"]));
    let text = *unexpected.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("store is full"));
}

#[test]
fn panics_count_as_errors() {
    let mut child = shell("echo \"thread 'main' (7) panicked at src/main.rs:1:1:\" >&2");
    child.wait_exit(LIMIT).unwrap();
    assert!(std::panic::catch_unwind(|| child.assert_no_errors(&[])).is_err());
}

#[test]
fn a_fact_that_never_comes_is_named() {
    let error = await_fact(Duration::ZERO, "the moon", || None::<()>).unwrap_err();
    assert!(error.to_string().contains("the moon"), "{error}");
}

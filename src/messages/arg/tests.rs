//! What an argument of a command line is quoted as.

use super::*;

const UUID: &str = "11111111-2222-4333-8444-000000000001";

fn guest(name: &str) -> String {
    let uuid = DomainUuid::parse(UUID).ok();
    Arg::guest(Named { name, uuid }).to_string()
}

#[test]
fn names_are_quoted_for_the_shell_only_where_it_matters() {
    assert_eq!(guest("vm-1.example"), "vm-1.example");
    assert_eq!(guest("my vm"), "'my vm'");
    assert_eq!(guest("it's"), r"'it'\''s'");
    assert_eq!(guest("$(reboot)"), "'$(reboot)'");
    assert_eq!(guest("größe"), "'größe'");
}

#[test]
fn a_name_that_would_be_read_as_something_else_gives_way_to_the_uuid() {
    for name in [
        "",
        "-f",
        "--all",
        "7",
        "+7",
        "007",
        " vm1",
        "vm1 ",
        "11111111-2222-4333-8444-00000000000a",
        "1111111122224333844400000000000A",
        // virsh reads that as a UUID.
        "1111111122224333-84-44-0000-0000000a",
        "a\nb",
        "a\u{1b}[31m",
        "a\u{9b}b",
        "a\u{202e}b",
        "a\u{2028}b",
        "a\u{200b}b",
        "a\u{7f}b",
    ] {
        assert_eq!(guest(name), UUID, "{name:?}");
        assert_eq!(Arg::guest(name).to_string(), "DOMAIN", "{name:?}");
    }
}

#[test]
fn a_file_is_never_an_option() {
    let file = |path: &str| Arg::file(Path::new(path)).to_string();
    assert_eq!(file("/root/a.recovery"), "/root/a.recovery");
    assert_eq!(file("/root/my file"), "'/root/my file'");
    assert_eq!(file("-rf"), "./-rf");
    assert_eq!(file("a\u{202e}b"), "FILE");
}

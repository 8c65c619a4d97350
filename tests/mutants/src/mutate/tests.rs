//! What becomes of small sources.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use super::Mutator;

/// A source with its mutants, in one line and without the module of the switch; and their names.
fn mutated_without(left_out: &[&str], text: &str) -> (String, Vec<String>) {
    let left_out: BTreeSet<String> = left_out.iter().map(|name| (*name).to_owned()).collect();
    let mut mutator = Mutator::leaving_out(&left_out);
    let text = mutator.mutate("src/m.rs", "m", text).unwrap();
    let names = mutator
        .into_mutants()
        .into_iter()
        .map(|mutant| mutant.name)
        .collect();
    (
        super::in_one_line(&text.replace("crate::__mutant", "on")),
        names,
    )
}

fn mutated(text: &str) -> (String, Vec<String>) {
    mutated_without(&[], text)
}

/// The body of a function of these parameters that returns nothing that could be made up, and the changes in it.
fn body(parameters: &str, body: &str) -> (String, Vec<String>) {
    let (text, names) = mutated(&format!("fn f({parameters}) -> T {{ {body} }}"));
    let start = text.find('{').unwrap();
    let changes = names
        .iter()
        .map(|name| name.strip_prefix("m::f: ").unwrap().to_owned());
    (text[start..].to_owned(), changes.collect())
}

#[test]
fn a_comparison_has_a_branch_for_each_other_operator() {
    let (text, changes) = body("a: u8, b: u8", "a < b");
    assert_eq!(
        text,
        "{ (if on(1) { a > b } else { (if on(0) { a <= b } else { a < b }) }) }"
    );
    assert_eq!(changes, ["< -> <= in a < b", "< -> > in a < b"]);
}

#[test]
fn operands_are_changed_too_and_named_as_the_source_spells_them() {
    let (text, changes) = body("a: bool, b: bool", "a &&\n    !b");
    assert_eq!(
        text,
        "{ (if on(1) { a || (on(0) == (b)) } else { a && (on(0) == (b)) }) }"
    );
    assert_eq!(changes, ["no ! in !b", "&& -> || in a && !b"]);
}

#[test]
fn a_guard_is_true_and_false() {
    let (text, changes) = body("a: u8, b: bool", "match a { 1 if b => x(), n => y(n) }");
    assert_eq!(
        text,
        "{ match a { 1 if (on(1) || (!on(0) && (b))) => x(), n => y(n), } }"
    );
    assert_eq!(changes, ["guard is false: b", "guard is true: b"]);
}

#[test]
fn an_arm_is_left_out_where_another_one_takes_all() {
    let (text, changes) = body("a: u8", "match a { 1 => x(), 2 | 3 => y(), _ => z() }");
    assert_eq!(
        text,
        "{ match a { 1 if !on(0) => x(), 2 | 3 if !on(1) => y(), _ => z(), } }"
    );
    assert_eq!(changes, ["no arm 1", "no arm 2 | 3"]);
    let every_variant = "match a { A::B => x(), A::C => y() }";
    assert_eq!(body("a: A", every_variant).1, [""; 0]);
}

#[test]
fn a_let_chain_keeps_its_operators_and_its_parts_are_changed() {
    let (text, changes) = body(
        "a: bool, b: bool, c: Option<u8>",
        "if a && b && let Some(n) = c && n == 1 { x() } else { y() }",
    );
    assert_eq!(
        text,
        "{ if (if on(0) { a || b } else { a && b }) && let Some(n) = c \
         && (if on(1) { n != 1 } else { n == 1 }) { x() } else { y() } }"
    );
    assert_eq!(changes, ["&& -> || in a && b", "== -> != in n == 1"]);
    let guard = "match a { true if let Some(n) = c => x(n), _ => y() }";
    assert_eq!(body("a: bool, c: Option<u8>", guard).1, [""; 0]);
}

#[test]
fn a_function_returns_what_its_type_has() {
    let (text, names) =
        mutated("impl<'a> A<'a> { fn f(&self) -> io::Result<Option<bool>> { g() } }");
    assert_eq!(
        text,
        "impl<'a> A<'a> { fn f(&self) -> io::Result<Option<bool>> { \
         if on(0) { return Ok(None); } \
         if on(1) { return Ok(Some(true)); } \
         if on(2) { return Ok(Some(false)); } g() } }"
    );
    assert_eq!(names[1], "m::A::f: returns Ok(Some(true))");
    assert_eq!(
        mutated("fn f() { g(); }").0,
        "fn f() { if on(0) { return; } g(); }"
    );
}

#[test]
fn a_function_that_would_be_the_same_is_no_mutant() {
    assert_eq!(mutated("fn f() -> Option<T> { None }").1, [""; 0]);
    assert_eq!(mutated("fn f() {}").1, [""; 0]);
    assert_eq!(
        mutated("fn f() -> bool { true }").1,
        ["m::f: returns false"]
    );
}

#[test]
fn tests_and_what_is_computed_while_compiling_are_left_alone() {
    for text in [
        "#[cfg(test)] mod tests { fn f() -> bool { a == b } }",
        "#[cfg(all(test, unix))] fn f() -> bool { a == b }",
        "#[test] fn f() { g(a == b) }",
        "const A: bool = 1 == 2;",
        "const fn f() -> bool { a == b }",
        "enum A { B = 1 + 1 }",
        "impl fmt::Debug for A { fn fmt(&self) -> fmt::Result { f(a == b) } }",
        "fn f(a: [u8; 1 + 1]) -> T { g(a) }",
        "fn f(a: A) -> T { match a { #[cfg(test)] A::Fake => a == b, A::B => g() } }",
        "fn f(a: A) -> T { #[cfg(test)] let a = a == b; g(a) }",
    ] {
        assert_eq!(mutated(text).1, [""; 0], "{text}");
    }
}

#[test]
fn the_second_of_its_kind_has_a_name_of_its_own() {
    let (_, changes) = body("a: T", "g(a == 1, a == 1)");
    assert_eq!(changes, ["== -> != in a == 1", "== -> != in a == 1 #2"]);
}

#[test]
fn what_is_left_out_has_no_switch_and_no_number() {
    let (text, names) = mutated_without(&["m::f: returns true"], "fn f() -> bool { g() }");
    assert_eq!(text, "fn f() -> bool { if on(0) { return false; } g() }");
    assert_eq!(names, ["m::f: returns false"]);
}

//! Text in lines.

/// Lines of at most so many columns; a longer word has a line of its own.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn a_text_wraps_between_words_and_a_path_stays_whole() {
        let text = "the file /a/very/long/path/to/it is gone";
        assert_eq!(
            wrapped(text, 12),
            ["the file", "/a/very/long/path/to/it", "is gone"]
        );
        assert_eq!(wrapped("exactly ten", 11), ["exactly ten"]);
        assert_eq!(wrapped("exactly ten", 10), ["exactly", "ten"]);
    }
}

//! Which field of a body that is no JSON has the fault.

/// The name of the outermost object's field whose value holds the byte at `offset`; none where that
/// is in no value, or the text before it is no object.
pub(super) fn field_at(body: &[u8], offset: usize) -> Option<String> {
    let mut reader = Reader::default();
    for (index, byte) in body.iter().enumerate().take(offset) {
        reader.read(index, *byte);
    }
    let name = body.get(reader.field?)?;
    Some(String::from_utf8_lossy(name).chars().take(100).collect())
}

/// Of the text before the fault only strings and depth matter.
#[derive(Debug, Default)]
struct Reader {
    depth: usize,
    /// Where the string began that is open.
    string: Option<usize>,
    is_escaped: bool,
    /// The last string that ended in the outermost object.
    last: Option<std::ops::Range<usize>>,
    /// The name whose value is open.
    field: Option<std::ops::Range<usize>>,
}

// === impl Reader ===

impl Reader {
    fn read(&mut self, index: usize, byte: u8) {
        if let Some(start) = self.string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => {
                    self.string = None;
                    if self.depth == 1 {
                        self.last = Some(start..index);
                    }
                }
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => self.string = Some(index + 1),
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b':' if self.depth == 1 => self.field = self.last.take(),
            b',' if self.depth == 1 => self.field = None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: Option<&str>) {
        let offset = body.find('!').unwrap();
        assert_eq!(field_at(body.as_bytes(), offset).as_deref(), expected);
    }

    #[test]
    fn the_outermost_field_around_a_fault_is_named() {
        check(r#"{"a": !"#, Some("a"));
        check(r#"{"a": 1, "b": [{"c": !"#, Some("b"));
        check(r#"{"a": "x\",: {", "b c": {"d": 1, "e": !"#, Some("b c"));
        check(r#"{"a": 1, !"#, None);
        check(r#"{"a": {"b": 2}!"#, Some("a"));
        check(r#"{!"#, None);
        check(r#"["a": !"#, Some("a"));
        check("!", None);
    }
}

//! A guest is cloned with its TPM: its state is copied, and `key clone` wraps its key for the
//! clone.

use std::fs;

use super::host::Host;
use crate::manage::clone::{CloneAction, clone as clone_key};

/// Makes the other guest a clone of this one, if it has no TPM yet.
pub(crate) fn happen(host: &mut Host, original: usize) -> Option<String> {
    let clone = 1 - original;
    let (from, to) = (host.state_file(original), host.state_file(clone));
    if host.guests[original].running || host.guests[clone].running || to.exists() {
        return None;
    }
    let state = fs::read(from).ok()?;
    fs::create_dir_all(to.parent()?).unwrap();
    fs::write(&to, state).unwrap();
    let (text, new_text) = (host.arg(original), host.arg(clone));
    let cloned = host.while_defined(clone, || clone_key(host.manage(), &text, &new_text).ok());
    let Some(cloned) = cloned else {
        // Without its key the copy is of no use.
        fs::remove_file(to).unwrap();
        return None;
    };
    if cloned.action == CloneAction::Copied {
        let rows = host.rows(clone);
        let row = rows.iter().find(|row| row.key_ref.id == cloned.key_ref);
        let bytes = host.unwrapped(row.unwrap()).unwrap();
        host.guests[clone].made_with.insert(bytes.clone());
        host.guests[clone].used.insert(bytes);
    }
    Some("cloned".to_owned())
}

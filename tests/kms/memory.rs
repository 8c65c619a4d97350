//! What is left of keys in the memory of the plugins as they end: nothing, whatever library has had them.

use std::fs;
use std::process::Command;

use crate::built::built;
use crate::dump::Dump;
use crate::plugin::{Script, private_dir};
use crate::suite::{Bench, Kind};
use crate::traces::Secrets;

/// Wraps a KEK, and unwraps it. Then neither that is in the plugin's memory, nor what opened the key manager to it.
pub(crate) fn nothing_is_left<K: Kind>(credentials: impl Fn(&K) -> Vec<(&'static str, Vec<u8>)>) {
    let has_gdb = ["-batch", "-nx", "-ex", "python print(1)"];
    let gdb = Command::new("gdb").args(has_gdb).output();
    assert!(
        gdb.is_ok_and(|gdb| gdb.stdout.trim_ascii() == b"1"),
        "there is no gdb with Python here"
    );
    let Some(mut bench) = Bench::<K>::start() else {
        return;
    };
    let dir = private_dir(bench.dir(), "dump");
    let dump = Dump::into(&dir);
    let name = format!("kms-{}", K::NAME);
    let (program, place) = (built(&name), dir.to_str().unwrap());
    bench.plugin = Script::named(&name, &Dump::script(program.to_str().unwrap(), place));
    let mut secrets = Secrets::new();
    secrets.add("the KEK", bench.kek.expose());
    for (what, value) in credentials(&bench.kind) {
        secrets.add(what, &value);
    }
    // An argument of the program.
    secrets.add("witness", program.to_str().unwrap().as_bytes());
    bench.try_both_ways();
    let at_its_end = dump.search(&secrets).unwrap();
    let errors = fs::read_to_string(dir.join("errors")).unwrap();
    assert_eq!(at_its_end.status, 0, "{errors}");
    assert_eq!(at_its_end.found, ["witness"], "{errors}");
    bench.end();
}

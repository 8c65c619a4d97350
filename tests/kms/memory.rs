//! What is left of keys in the memory of the plugins as they end: nothing, whatever library has had them.

use crate::built::built;
use crate::dump::{Dump, WITNESS};
use crate::plugin::{Script, private_dir};
use crate::suite::{Bench, Kind};
use crate::traces::Secrets;

/// Wraps a KEK, and unwraps it. Then neither that is in the plugin's memory, nor what opened the key manager to it.
pub(crate) fn nothing_is_left<K: Kind>(add_credentials: impl Fn(&K, &mut Secrets)) {
    Dump::needs_gdb();
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
    add_credentials(&bench.kind, &mut secrets);
    // An argument of the program.
    secrets.add(WITNESS, program.to_str().unwrap().as_bytes());
    bench.try_both_ways();
    let runs = dump.has_witness_alone(&name, &secrets, 0);
    assert_eq!(runs, 1);
    bench.end();
}

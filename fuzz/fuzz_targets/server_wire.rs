#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: menshen_fuzz::let_the_guards_threads_panic(),
    |data: &[u8]| {
        menshen_fuzz::wire::server(data);
    }
);

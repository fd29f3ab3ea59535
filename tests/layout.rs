//! Imports point down the list of `lib.rs` only.

use std::path::Path;

#[test]
fn imports_point_down_the_map() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let map: Vec<String> = std::fs::read_to_string(root.join("lib.rs"))
        .unwrap()
        .lines()
        .filter_map(|l| Some(l.strip_prefix("pub mod ")?.trim_end_matches(';').to_owned()))
        .collect();
    assert!(map.len() > 10);
    let mut wrong = Vec::new();
    visit(&root, &mut |path, text| {
        let relative = path.strip_prefix(&root).unwrap();
        let own = relative
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_string_lossy()
            .replace(".rs", "");
        let Some(place) = map.iter().position(|m| *m == own) else {
            return;
        };
        for (number, line) in text
            .lines()
            .enumerate()
            .filter(|(_, l)| !l.trim_start().starts_with("//"))
        {
            for part in line.split("crate::").skip(1) {
                let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if let Some(other) = map.iter().position(|m| *m == name)
                    && other < place
                {
                    wrong.push(format!("{}:{}: {own} uses {name}", relative.display(), number + 1));
                }
            }
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn visit(directory: &Path, look: &mut dyn FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, look);
        } else if path.extension().is_some_and(|e| e == "rs") {
            look(&path, &std::fs::read_to_string(&path).unwrap());
        }
    }
}

//! Statements over the demo's schema, made from a seed: type-correct, deterministic in what they answer, and odd in form. The same
//! seed gives the same statement for ever.

/// Types that expressions are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    Int,
    Text,
    Number,
    Date,
    Flag,
    Float,
}

type Columns = Vec<(String, Ty)>;

const TABLES: [(&str, &[(&str, Ty)]); 8] = [
    (
        "customers",
        &[
            ("id", Ty::Int),
            ("name", Ty::Text),
            ("id_card", Ty::Text),
            ("phone", Ty::Text),
            ("email", Ty::Text),
            ("address", Ty::Text),
            ("birth", Ty::Date),
            ("grade", Ty::Text),
            ("city", Ty::Text),
        ],
    ),
    (
        "messages",
        &[("id", Ty::Int), ("customer_id", Ty::Int), ("body", Ty::Text)],
    ),
    (
        "orders",
        &[
            ("id", Ty::Int),
            ("customer_id", Ty::Int),
            ("item", Ty::Text),
            ("total", Ty::Number),
            ("status", Ty::Text),
        ],
    ),
    (
        "transactions",
        &[
            ("id", Ty::Int),
            ("customer_id", Ty::Int),
            ("bank_card", Ty::Text),
            ("amount", Ty::Number),
        ],
    ),
    (
        "customer_locations",
        &[
            ("id", Ty::Int),
            ("customer_id", Ty::Int),
            ("lat", Ty::Float),
            ("lon", Ty::Float),
        ],
    ),
    (
        "products",
        &[("id", Ty::Int), ("name", Ty::Text), ("price", Ty::Number)],
    ),
    ("profiles", &[("id", Ty::Int), ("customer_id", Ty::Int)]),
    (
        "visits",
        &[
            ("id", Ty::Int),
            ("customer_id", Ty::Int),
            ("place", Ty::Text),
            ("day", Ty::Date),
        ],
    ),
];

/// Expressions over columns of the types that [`Ty`] does not have; `@` is the table's alias.
const PARTS: [(&str, &str, Ty); 16] = [
    ("profiles", "@.nick::text", Ty::Text),
    ("profiles", "@.mood::text", Ty::Text),
    ("profiles", "@.tags[1]", Ty::Text),
    ("profiles", "array_to_string(@.phones, ',')", Ty::Text),
    ("profiles", "array_to_string(@.phones[1:1] || @.tags, '+')", Ty::Text),
    ("profiles", "(@.extra ->> 'phone')", Ty::Text),
    ("profiles", "(@.extra #>> '{list,0}')", Ty::Text),
    ("profiles", "(@.extra['email'])::text", Ty::Text),
    ("profiles", "jsonb_path_query_first(@.extra, '$.phone')::text", Ty::Text),
    ("profiles", "(@.spare).number", Ty::Text),
    ("profiles", "@.spare::text", Ty::Text),
    ("profiles", "cardinality(@.tags)", Ty::Int),
    ("profiles", "(@.extra ? 'phone')", Ty::Flag),
    ("profiles", "(@.tags && ARRAY['tag 1', '上海'])", Ty::Flag),
    ("profiles", "(@.mood >= 'happy')", Ty::Flag),
    ("profiles", "('x' = ANY (@.phones))", Ty::Flag),
];

/// Views, and partitions as tables of their own.
const VIEWS: [(&str, &[(&str, Ty)]); 5] = [
    (
        "v_contacts",
        &[
            ("id", Ty::Int),
            ("name", Ty::Text),
            ("tel", Ty::Text),
            ("grade", Ty::Text),
        ],
    ),
    ("v_vip", &[("id", Ty::Int), ("tel", Ty::Text), ("grade", Ty::Text)]),
    (
        "v_talk",
        &[
            ("message_id", Ty::Int),
            ("customer_id", Ty::Int),
            ("body", Ty::Text),
            ("status", Ty::Text),
        ],
    ),
    (
        "visits_2025",
        &[("id", Ty::Int), ("customer_id", Ty::Int), ("place", Ty::Text)],
    ),
    (
        "visits_2026",
        &[("customer_id", Ty::Int), ("place", Ty::Text), ("day", Ty::Date)],
    ),
];

/// Something that references can name.
#[derive(Debug, Clone)]
struct Source {
    alias: String,
    columns: Columns,
    /// A table: its whole row may be named.
    table: Option<usize>,
}

fn owned(columns: &[(&str, Ty)]) -> Columns {
    columns.iter().map(|(n, t)| ((*n).to_owned(), *t)).collect()
}

/// The maker of one statement.
pub struct Generator {
    state: u64,
    aliases: usize,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            aliases: 0,
        }
    }

    /// splitmix64
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        let n = self.aliases;
        match self.below(8) {
            0 => format!("\"A {n}\""),
            1 => format!("\"from{n}\""),
            _ => format!("t{n}"),
        }
    }

    /// A statement: mostly a query, sometimes a data modification, a COPY or what a cursor or a prepared statement shows.
    pub fn statement(&mut self) -> String {
        let sql = match self.below(24) {
            0 | 1 => self.update(),
            2 | 3 => self.delete(),
            4 | 5 => self.insert(),
            6 => format!("COPY ({}) TO STDOUT{}", self.ordered(), self.copy_options()),
            7 => {
                // In binary the first message holds the header and the first row, whichever that is.
                let (table, columns) = TABLES[self.below(TABLES.len())];
                let list = if self.one_in(2) {
                    format!(" ({})", columns[columns.len() - 1].0)
                } else {
                    String::new()
                };
                format!(
                    "COPY crm.{table}{list} TO STDOUT{}",
                    self.pick(&[
                        "",
                        " (FORMAT csv)",
                        " (FORMAT csv, FORCE_QUOTE *)",
                        " (DELIMITER '|', NULL 'nil')"
                    ])
                )
            }
            8 | 9 => self.merge(),
            10 | 11 => self.modifying_with(),
            12 => {
                let how = self.pick(&["", "BINARY ", "NO SCROLL ", "INSENSITIVE "]);
                let hold = self.pick(&["", " WITHOUT HOLD"]);
                let fetch = self.pick(&["ALL", "3", "FORWARD 5", "NEXT"]);
                return format!(
                    "DECLARE k {how}CURSOR{hold} FOR {}; FETCH {fetch} FROM k",
                    self.ordered()
                );
            }
            13 => {
                let name = format!("p{:x}", self.next());
                return format!(
                    "PREPARE {name} AS {}; EXECUTE {name}; DEALLOCATE {name}",
                    self.ordered()
                );
            }
            14 => self.recursive(),
            _ => self.query(3, &[]).0,
        };
        self.spaced(&sql)
    }

    /// `MERGE` into a table with columns that everybody may write.
    fn merge(&mut self) -> String {
        let (from, source) = self.table();
        let name = self.pick(&["orders", "products"]);
        let (column, _) = Self::free_column(name);
        let value = self.free_value(Ty::Text, &source);
        let target = Source {
            alias: "mt".to_owned(),
            columns: TABLES
                .iter()
                .find(|t| t.0 == name)
                .map_or_else(Columns::new, |t| owned(t.1)),
            table: None,
        };
        let both = [target, source.clone()];
        let when = if self.one_in(2) {
            format!(" AND {}", self.expression(Ty::Flag, 1, &both))
        } else {
            String::new()
        };
        let matched = match self.below(4) {
            0 => "DELETE".to_owned(),
            1 => "DO NOTHING".to_owned(),
            _ => format!("UPDATE SET {column} = {value}"),
        };
        let new = match name {
            "orders" => format!(
                "INSERT (id, customer_id, {column}) VALUES ({0}.id + 20000, {0}.id, 'new')",
                source.alias
            ),
            _ => format!("INSERT (id, {column}) VALUES ({}.id + 20000, DEFAULT)", source.alias),
        };
        // One row of the target meets one of the source at most, or PostgreSQL refuses by chance of order.
        format!(
            "MERGE INTO crm.{name} AS mt USING {from} ON mt.id = {a}.id WHEN MATCHED{when} THEN {matched} \
             WHEN NOT MATCHED AND {a}.id < 30 THEN {new}",
            a = source.alias
        )
    }

    /// A query over what a data modification returns.
    fn modifying_with(&mut self) -> String {
        let (table, source) = self.table();
        let name = TABLES[source.table.unwrap()].0;
        let (text, number) = (
            self.expression(Ty::Text, 2, std::slice::from_ref(&source)),
            format!("{}.id", source.alias),
        );
        let condition = self.condition(std::slice::from_ref(&source));
        let modification = if self.one_in(2) {
            format!("DELETE FROM {table}{condition}")
        } else {
            let (column, ty) = Self::free_column(name);
            let value = self.free_value(ty, &source);
            format!("UPDATE {table} SET {column} = {value}{condition}")
        };
        let made = Source {
            alias: "dm".to_owned(),
            columns: vec![("t".to_owned(), Ty::Text), ("n".to_owned(), Ty::Int)],
            table: None,
        };
        let (body, _) = self.select_from(1, &[], vec![made], "dm".to_owned());
        format!("WITH dm(t, n) AS ({modification} RETURNING {text}, {number}) {body}")
    }

    /// A recursive CTE that begins with rows of a table.
    fn recursive(&mut self) -> String {
        let (table, source) = self.table();
        let text = self.expression(Ty::Text, 2, std::slice::from_ref(&source));
        let union = self.pick(&["UNION ALL", "UNION"]);
        let step = self.pick(&["t || 'x'", "upper(t)", "left(t, 3)"]);
        let made = Source {
            alias: "r".to_owned(),
            columns: vec![("n".to_owned(), Ty::Int), ("t".to_owned(), Ty::Text)],
            table: None,
        };
        let (body, _) = self.select_from(1, &[], vec![made], "r".to_owned());
        format!(
            "WITH RECURSIVE r(n, t) AS (SELECT 1, {text} FROM {table} WHERE {}.id < 20 {union} SELECT n + 1, {step} FROM r WHERE n < 3) {body}",
            source.alias
        )
    }

    fn copy_options(&mut self) -> &'static str {
        self.pick(&[
            "",
            " (FORMAT csv)",
            " (FORMAT csv, HEADER)",
            " (DELIMITER '|', NULL 'nil')",
            " (FORMAT binary)",
        ])
    }

    /// Other white space and comments in some places.
    fn spaced(&mut self, sql: &str) -> String {
        if !self.one_in(4) || sql.contains('\'') {
            return sql.to_owned();
        }
        let mut out = String::new();
        for (i, word) in sql.split(' ').enumerate() {
            if i > 0 {
                out.push_str(self.pick(&[" ", " ", " ", "  ", "\n", "\t", " /* x */ ", " -- y\n"]));
            }
            out.push_str(word);
        }
        out
    }

    /// A query whose rows come in a total order.
    fn ordered(&mut self) -> String {
        let (sql, columns) = self.select(2, &[]);
        let by: Vec<String> = (1..=columns.len()).map(|n| n.to_string()).collect();
        format!("SELECT * FROM ({sql}) q ORDER BY {}", by.join(", "))
    }

    /// A query and its columns.
    fn query(&mut self, depth: usize, outer: &[Source]) -> (String, Columns) {
        if depth > 1 && self.one_in(6) {
            return self.with(depth);
        }
        if depth > 1 && self.one_in(6) {
            return self.set_operation(depth, outer);
        }
        let (mut sql, columns) = self.select(depth, outer);
        if self.one_in(4) && !sql.contains(" ORDER BY") && columns.iter().all(|(_, t)| *t != Ty::Float) {
            let by: Vec<String> = (1..=columns.len()).map(|n| n.to_string()).collect();
            sql.push_str(&format!(" ORDER BY {}", by.join(", ")));
            match self.below(4) {
                0 => sql.push_str(&format!(" LIMIT {}", 1 + self.below(9))),
                1 => sql.push_str(&format!(
                    " OFFSET {} ROWS FETCH FIRST {} ROWS ONLY",
                    self.below(4),
                    1 + self.below(9)
                )),
                _ => {}
            }
        }
        (sql, columns)
    }

    fn with(&mut self, depth: usize) -> (String, Columns) {
        let (inner, columns) = self.select(depth - 1, &[]);
        let name = self.alias();
        let how = self.pick(&["", "MATERIALIZED ", "NOT MATERIALIZED "]);
        let list = if self.one_in(3) {
            let names: Vec<String> = (0..columns.len()).map(|i| format!("w{i}")).collect();
            Some(names)
        } else {
            None
        };
        let columns: Columns = match &list {
            Some(names) => names.iter().cloned().zip(columns.iter().map(|c| c.1)).collect(),
            None => columns,
        };
        let written = list.map_or_else(String::new, |l| format!("({})", l.join(", ")));
        let source = Source {
            alias: name.clone(),
            columns,
            table: None,
        };
        let (body, out) = self.select_from(depth - 1, &[], vec![source], name.clone());
        (format!("WITH {name}{written} AS {how}({inner}) {body}"), out)
    }

    fn set_operation(&mut self, depth: usize, outer: &[Source]) -> (String, Columns) {
        let types: Vec<Ty> = (0..1 + self.below(3)).map(|_| self.plain_type()).collect();
        let operator = self.pick(&[
            "UNION ALL",
            "UNION ALL",
            "UNION",
            "INTERSECT",
            "EXCEPT",
            "INTERSECT ALL",
            "EXCEPT ALL",
        ]);
        let mut sides = Vec::new();
        for _ in 0..2 {
            let (from, sources) = self.from(depth - 1, outer);
            let scope = self.scope(&sources, outer);
            let list: Vec<String> = types
                .iter()
                .enumerate()
                .map(|(i, t)| format!("{} AS u{i}", self.expression(*t, 2, &scope)))
                .collect();
            let condition = self.condition(&scope);
            sides.push(format!("SELECT {} FROM {from}{condition}", list.join(", ")));
        }
        let columns = types.iter().enumerate().map(|(i, t)| (format!("u{i}"), *t)).collect();
        (format!("{} {operator} {}", sides[0], sides[1]), columns)
    }

    fn plain_type(&mut self) -> Ty {
        [Ty::Int, Ty::Text, Ty::Text, Ty::Number, Ty::Date, Ty::Flag][self.below(6)]
    }

    fn select(&mut self, depth: usize, outer: &[Source]) -> (String, Columns) {
        let (from, sources) = self.from(depth, outer);
        self.select_from(depth, outer, sources, from)
    }

    fn select_from(&mut self, depth: usize, outer: &[Source], sources: Vec<Source>, from: String) -> (String, Columns) {
        let scope = self.scope(&sources, outer);
        let condition = self.condition(&scope);
        match self.below(8) {
            7 => self.distinct_on(&scope, &from, &condition),
            0 => self.grouped(&scope, &from, &condition),
            1 => self.windowed(&scope, &from, &condition),
            2 if sources.len() == 1 && sources[0].table.is_some() => self.whole_rows(&sources[0], &from, &condition),
            n => {
                let mut columns = Columns::new();
                let mut list = Vec::new();
                for i in 0..1 + self.below(4) {
                    let ty = self.plain_type();
                    let expression = if depth > 1 && self.one_in(8) {
                        self.scalar(ty, &scope)
                    } else {
                        self.expression(ty, 3, &scope)
                    };
                    list.push(format!("{expression} AS o{i}"));
                    columns.push((format!("o{i}"), ty));
                }
                let distinct = if n == 3 { "DISTINCT " } else { "" };
                (
                    format!("SELECT {distinct}{} FROM {from}{condition}", list.join(", ")),
                    columns,
                )
            }
        }
    }

    /// `DISTINCT ON`, in an order that leaves no choice.
    fn distinct_on(&mut self, scope: &[Source], from: &str, condition: &str) -> (String, Columns) {
        let (key, text, number) = (
            self.expression(Ty::Text, 1, scope),
            self.expression(Ty::Text, 2, scope),
            self.expression(Ty::Int, 1, scope),
        );
        let last = self.pick(&["", " DESC", " NULLS FIRST"]);
        (
            format!(
                "SELECT DISTINCT ON (o0) {key} AS o0, {text} AS o1, {number} AS o2 FROM {from}{condition} ORDER BY 1, 2, 3{last}"
            ),
            vec![("o0".into(), Ty::Text), ("o1".into(), Ty::Text), ("o2".into(), Ty::Int)],
        )
    }

    fn grouped(&mut self, scope: &[Source], from: &str, condition: &str) -> (String, Columns) {
        let key = self.expression(Ty::Text, 1, scope);
        let mut list = vec![format!("{key} AS g")];
        let mut columns = vec![("g".to_owned(), Ty::Text)];
        for i in 0..1 + self.below(3) {
            let (text, number, any) = (
                self.expression(Ty::Text, 1, scope),
                self.expression(Ty::Number, 1, scope),
                self.expression(Ty::Int, 1, scope),
            );
            let filter = if self.one_in(3) {
                format!(" FILTER (WHERE {})", self.expression(Ty::Flag, 1, scope))
            } else {
                String::new()
            };
            let (aggregate, ty) = match self.below(15) {
                10 => (
                    format!("percentile_disc(0.5) WITHIN GROUP (ORDER BY {text}){filter}"),
                    Ty::Text,
                ),
                11 => (
                    format!("percentile_cont(0.5) WITHIN GROUP (ORDER BY {number}){filter}::numeric(20, 3)"),
                    Ty::Number,
                ),
                12 => (
                    format!("rank('m') WITHIN GROUP (ORDER BY {text}){filter}::int"),
                    Ty::Int,
                ),
                13 => (
                    format!("jsonb_object_agg({text}, {any} ORDER BY {text}, {any}){filter}::text"),
                    Ty::Text,
                ),
                14 => (format!("bool_and({text} > 'a'){filter}::text"), Ty::Text),
                0 => (format!("count(*){filter}"), Ty::Int),
                1 => (format!("count(DISTINCT {text}){filter}"), Ty::Int),
                2 => (format!("max({text}){filter}"), Ty::Text),
                3 => (format!("min({text}){filter}"), Ty::Text),
                4 => (format!("sum({number}){filter}"), Ty::Number),
                5 => (format!("string_agg({text}, ',' ORDER BY {text}){filter}"), Ty::Text),
                6 => (format!("array_agg({text} ORDER BY {text}){filter}::text"), Ty::Text),
                7 => (format!("jsonb_agg({text} ORDER BY {text}){filter}::text"), Ty::Text),
                8 => (format!("string_agg(DISTINCT {text}, ';'){filter}"), Ty::Text),
                _ => (format!("max({any}){filter}::int"), Ty::Int),
            };
            list.push(format!("{aggregate} AS a{i}"));
            columns.push((format!("a{i}"), ty));
        }
        let other = self.expression(Ty::Text, 1, scope);
        let grouping = match self.below(10) {
            6 => format!("GROUPING SETS (({key}), ({other}), ())"),
            7 => format!("CUBE ({key}, {other})"),
            8 => format!("GROUPING SETS (ROLLUP ({key}), ({key}, {other}))"),
            9 => format!("DISTINCT ROLLUP ({key}), ROLLUP ({key}, {other})"),
            0 => format!("ROLLUP ({key})"),
            1 => "1".to_owned(),
            2 => "g".to_owned(),
            _ => key,
        };
        let having = if self.one_in(4) { " HAVING count(*) > 1" } else { "" };
        (
            format!(
                "SELECT {} FROM {from}{condition} GROUP BY {grouping}{having}",
                list.join(", ")
            ),
            columns,
        )
    }

    fn windowed(&mut self, scope: &[Source], from: &str, condition: &str) -> (String, Columns) {
        let (text, by) = (self.expression(Ty::Text, 1, scope), self.expression(Ty::Text, 1, scope));
        // Frames of peers: which of them comes first is nobody's business.
        let frame = self.pick(&[
            "GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
            "GROUPS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING EXCLUDE GROUP",
            "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW EXCLUDE TIES",
            "GROUPS 2 PRECEDING EXCLUDE CURRENT ROW",
        ]);
        let (function, ty) = match self.below(8) {
            5 => (
                format!("max({text}) OVER (PARTITION BY {by} ORDER BY {text} {frame})"),
                Ty::Text,
            ),
            6 => (
                format!("count(*) FILTER (WHERE {text} > 'b') OVER (ORDER BY {text} {frame})"),
                Ty::Int,
            ),
            7 => (
                format!("first_value({text}) OVER (PARTITION BY {by} ORDER BY {text} DESC)"),
                Ty::Text,
            ),
            0 => (format!("rank() OVER (PARTITION BY {by} ORDER BY {text})"), Ty::Int),
            1 => (format!("count(*) OVER (PARTITION BY {by})"), Ty::Int),
            2 => (format!("max({text}) OVER (PARTITION BY {by})"), Ty::Text),
            3 => (format!("min({text}) OVER w"), Ty::Text),
            _ => (format!("dense_rank() OVER (ORDER BY {text})"), Ty::Int),
        };
        let window = if function.ends_with(" w") {
            format!(
                " WINDOW w AS (PARTITION BY {by} ORDER BY {text} RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
            )
        } else {
            String::new()
        };
        (
            format!("SELECT {text} AS o0, {function} AS o1 FROM {from}{condition}{window}"),
            vec![("o0".into(), Ty::Text), ("o1".into(), ty)],
        )
    }

    fn whole_rows(&mut self, source: &Source, from: &str, condition: &str) -> (String, Columns) {
        let a = &source.alias;
        let column = source.columns[self.below(source.columns.len())].0.clone();
        let shown = match self.below(6) {
            0 => format!("to_jsonb({a})::text"),
            1 => format!("{a}::text"),
            2 => format!("({a}).{column}::text"),
            3 => format!("(SELECT x.{column}::text FROM (SELECT {a}.*) x)"),
            4 => format!("(to_jsonb({a}) ->> '{column}')"),
            _ => format!("concat({a}.{column}, '!')"),
        };
        // created_at of the copy is that of the shop: both are made by the same statements.
        (
            format!("SELECT {shown} AS o0 FROM {from}{condition}"),
            vec![("o0".into(), Ty::Text)],
        )
    }

    /// What expressions may name: own sources first.
    fn scope(&mut self, own: &[Source], outer: &[Source]) -> Vec<Source> {
        let mut scope = own.to_vec();
        if self.one_in(3) {
            scope.extend(outer.iter().cloned());
        }
        scope
    }

    fn condition(&mut self, scope: &[Source]) -> String {
        match self.below(3) {
            0 => String::new(),
            1 => format!(" WHERE {}", self.expression(Ty::Flag, 2, scope)),
            _ => format!(
                " WHERE {} AND {}",
                self.expression(Ty::Flag, 2, scope),
                self.predicate_query(scope)
            ),
        }
    }

    fn predicate_query(&mut self, scope: &[Source]) -> String {
        let (table, source) = self.table();
        let inner = [&[source][..], scope].concat();
        let flag = self.expression(Ty::Flag, 1, &inner);
        let text = self.expression(Ty::Text, 1, &inner[..1]);
        let mine = self.expression(Ty::Text, 1, scope);
        match self.below(5) {
            0 => format!("EXISTS (SELECT 1 FROM {table} WHERE {flag})"),
            1 => format!("NOT EXISTS (SELECT FROM {table} WHERE {flag})"),
            2 => format!("{mine} IN (SELECT {text} FROM {table} WHERE {flag})"),
            3 => format!("{mine} >= ANY (SELECT {text} FROM {table})"),
            _ => format!("({mine}, 1) NOT IN (SELECT {text}, 2 FROM {table})"),
        }
    }

    /// A sub-query of one value.
    fn scalar(&mut self, ty: Ty, scope: &[Source]) -> String {
        let (table, source) = self.table();
        let inner = [&[source.clone()][..], scope].concat();
        let flag = self.expression(Ty::Flag, 1, &inner);
        let value = self.expression(ty, 1, &[source]);
        match ty {
            Ty::Flag => format!("(SELECT bool_or({value}) FROM {table} WHERE {flag})"),
            Ty::Int | Ty::Text | Ty::Number | Ty::Date | Ty::Float => {
                format!("(SELECT max({value}) FROM {table} WHERE {flag})")
            }
        }
    }

    fn table(&mut self) -> (String, Source) {
        let index = self.below(TABLES.len());
        let (name, columns) = TABLES[index];
        let columns: Columns = columns.iter().map(|(n, t)| ((*n).to_owned(), *t)).collect();
        let only = self.pick(&["", "", "", "ONLY "]);
        if self.one_in(6) {
            return (
                format!("{only}crm.{name}"),
                Source {
                    alias: name.to_owned(),
                    columns,
                    table: Some(index),
                },
            );
        }
        let alias = self.alias();
        let as_word = self.pick(&["", "AS "]);
        (
            format!("{only}crm.{name} {as_word}{alias}"),
            Source {
                alias,
                columns,
                table: Some(index),
            },
        )
    }

    fn from(&mut self, depth: usize, outer: &[Source]) -> (String, Vec<Source>) {
        let (mut text, source) = self.item(depth, outer);
        let mut sources = vec![source];
        for _ in 0..self.below(3) {
            let (right, other) = self.item(depth - 1, outer);
            if sources.iter().any(|s| s.alias == other.alias) {
                continue;
            }
            let ids = |s: &Source| -> Option<String> {
                let known = s
                    .columns
                    .iter()
                    .find(|(n, t)| *t == Ty::Int && (n == "customer_id" || n == "id"))?;
                Some(format!("{}.{}", s.alias, known.0))
            };
            let kind = self.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "INNER JOIN"]);
            if let (Some(a), Some(b)) = (ids(&sources[0]), ids(&other)) {
                let shared = sources.len() == 1
                    && sources[0].columns.iter().any(|(n, _)| n == "customer_id")
                    && other.columns.iter().any(|(n, _)| n == "customer_id");
                if shared && self.one_in(4) {
                    text = format!("{text} {kind} {right} USING (customer_id)");
                } else {
                    let more = if self.one_in(4) && kind != "FULL JOIN" {
                        let both = [&sources[..], std::slice::from_ref(&other)].concat();
                        format!(" AND {}", self.expression(Ty::Flag, 1, &both))
                    } else {
                        String::new()
                    };
                    text = format!("{text} {kind} {right} ON {a} = {b}{more}");
                }
                sources.push(other);
            } else {
                text = format!("{text} CROSS JOIN (VALUES (1), (2)) v{}(n)", self.aliases);
                break;
            }
        }
        if self.one_in(8) {
            let alias = self.alias();
            let value = self.expression(Ty::Text, 1, &sources);
            let lateral = match self.below(6) {
                0 => format!("LATERAL string_to_table({value}, '1') AS {alias}(l)"),
                1 => format!("LATERAL (VALUES ({value}), ('v')) AS {alias}(l)"),
                2 => format!("regexp_split_to_table({value}, '[*]') WITH ORDINALITY AS {alias}(l, nth)"),
                3 => format!("LATERAL jsonb_each_text(jsonb_build_object('k', {value})) AS {alias}(k, l)"),
                4 => format!("LATERAL ROWS FROM (unnest(ARRAY[{value}, 'u']), generate_series(1, 2)) AS {alias}(l, g)"),
                _ => format!("LATERAL (SELECT {value} AS l) {alias}"),
            };
            text = format!("{text}, {lateral}");
            sources.push(Source {
                alias,
                columns: vec![("l".into(), Ty::Text)],
                table: None,
            });
        }
        (text, sources)
    }

    fn item(&mut self, depth: usize, outer: &[Source]) -> (String, Source) {
        if self.one_in(7) {
            let (name, columns) = VIEWS[self.below(VIEWS.len())];
            let alias = self.alias();
            let source = Source {
                alias: alias.clone(),
                columns: owned(columns),
                table: None,
            };
            return (format!("crm.{name} {alias}"), source);
        }
        if self.one_in(20) {
            let alias = self.alias();
            let source = Source {
                alias: alias.clone(),
                columns: vec![("id".into(), Ty::Int), ("t".into(), Ty::Text)],
                table: None,
            };
            return (
                format!("(VALUES (1, 'x'), (17, NULL), (30, '上海')) AS {alias}(id, t)"),
                source,
            );
        }
        if depth <= 1 || !self.one_in(4) {
            return self.table();
        }
        let (sql, columns) = self.query(depth - 1, outer);
        let alias = self.alias();
        (
            format!("({sql}) {alias}"),
            Source {
                alias,
                columns,
                table: None,
            },
        )
    }

    fn column(&mut self, ty: Ty, scope: &[Source]) -> Option<String> {
        let tables = scope.iter().filter_map(|s| Some((s, TABLES[s.table?].0)));
        let parts = tables.flat_map(|(source, name)| {
            let of_table = PARTS.iter().filter(move |(table, _, t)| *table == name && *t == ty);
            of_table.map(|(_, part, _)| part.replace('@', &source.alias))
        });
        let mut found: Vec<String> = scope
            .iter()
            .flat_map(|s| {
                s.columns
                    .iter()
                    .filter(|(_, t)| *t == ty)
                    .map(move |(n, _)| format!("{}.{n}", s.alias))
            })
            .collect();
        found.extend(parts);
        (!found.is_empty()).then(|| found[self.below(found.len())].clone())
    }

    fn expression(&mut self, ty: Ty, depth: usize, scope: &[Source]) -> String {
        if depth == 0 || self.one_in(3) {
            return self.leaf(ty, scope);
        }
        let d = depth - 1;
        match ty {
            Ty::Text => {
                let (a, b) = (self.expression(Ty::Text, d, scope), self.expression(Ty::Text, d, scope));
                match self.below(22) {
                    15 => format!("CASE {a} WHEN {b} THEN 'same' ELSE {a} END"),
                    16 => format!("(ARRAY[{a}, {b}])[2]"),
                    17 => format!("(to_jsonb({a}) #>> '{{}}')"),
                    18 => format!("(ROW({a}, 1))::text"),
                    19 => format!("overlay({a} PLACING '#' FROM 1)"),
                    20 => format!("format('%s/%L', {a}, {b})"),
                    0 => format!("upper({a})"),
                    1 => format!("({a} || {b})"),
                    2 => format!("coalesce({a}, {b})"),
                    3 => format!("left({a}, {})", 1 + self.below(5)),
                    4 => format!("substring({a} FROM 2 FOR 3)"),
                    5 => format!(
                        "CASE WHEN {} THEN {a} ELSE {b} END",
                        self.expression(Ty::Flag, d, scope)
                    ),
                    6 => format!("reverse({a})"),
                    7 => format!("encode(convert_to({a}, 'UTF8'), '{}')", self.pick(&["hex", "base64"])),
                    8 => format!("string_to_array({a}, NULL)::text"),
                    9 => format!("nullif({a}, {b})"),
                    10 => format!("greatest({a}, {b})"),
                    11 => format!("md5({a})"),
                    12 => format!("regexp_replace({a}, '[0-9]', 'd', 'g')"),
                    13 => format!("jsonb_build_object('k', {a})::text"),
                    14 => format!("concat({a}, '-', {b})"),
                    _ => format!("trim(both ' ' FROM {a})"),
                }
            }
            Ty::Int => {
                let (a, text) = (self.expression(Ty::Int, d, scope), self.expression(Ty::Text, d, scope));
                match self.below(5) {
                    0 => format!("length({text})"),
                    1 => format!("({a} % 7)"),
                    2 => format!("position('1' IN {text})"),
                    3 => format!("coalesce(ascii({text}), 0)"),
                    _ => format!("({a} - {})", self.below(5)),
                }
            }
            Ty::Number => {
                let a = self.expression(Ty::Number, d, scope);
                match self.below(3) {
                    0 => format!("round({a}, 1)"),
                    1 => format!("({a} + 1.5)"),
                    _ => format!("abs({a})"),
                }
            }
            Ty::Date => format!("({} + {})", self.expression(Ty::Date, d, scope), self.below(9)),
            Ty::Flag => {
                let of = self.plain_type();
                let (a, b) = (self.expression(of, d, scope), self.expression(of, d, scope));
                let (text, more) = (self.expression(Ty::Text, d, scope), self.expression(Ty::Flag, d, scope));
                match self.below(13) {
                    10 => format!("{text} = ANY (ARRAY['x', {text}, '138'])"),
                    11 => format!("starts_with({text}, '1')"),
                    12 => format!("{a} IS NOT DISTINCT FROM {b}"),
                    0 => format!("{a} {} {b}", self.pick(&["=", "<>", "<", ">=", "IS DISTINCT FROM"])),
                    1 => format!("{text} LIKE '{}'", self.pick(&["1%", "%*%", "王%", "c___%", "%市%"])),
                    2 => format!("{text} ~ '{}'", self.pick(&["^1[35]", "[*]+$", "(a|o)"])),
                    3 => format!("({a} IS NULL OR {more})"),
                    4 => format!("NOT ({more})"),
                    5 => format!("{a} BETWEEN {b} AND {a}"),
                    6 => format!("{text} IN ('vip', '***', 'x')"),
                    7 => format!("({a}, 1) < ({b}, 2)"),
                    8 => format!("({more}) IS TRUE"),
                    _ => format!("{text} SIMILAR TO '(1|c)%'"),
                }
            }
            Ty::Float => self.leaf(ty, scope),
        }
    }

    fn leaf(&mut self, ty: Ty, scope: &[Source]) -> String {
        if !self.one_in(6)
            && let Some(column) = self.column(ty, scope)
        {
            return column;
        }
        match ty {
            Ty::Int => self.below(300).to_string(),
            Ty::Text => self
                .pick(&["'x'", "'vip'", "''", "'138****1234'", "NULL::text", "'王**'"])
                .to_owned(),
            Ty::Number => format!("{}.5", self.below(2000)),
            Ty::Date => "date '1980-01-01'".to_owned(),
            Ty::Flag => self.pick(&["true", "false"]).to_owned(),
            Ty::Float => "1.5::float8".to_owned(),
        }
    }

    /// Columns that nobody's mask covers.
    fn free_column(table: &str) -> (&'static str, Ty) {
        match table {
            "orders" => ("status", Ty::Text),
            "customers" => ("city", Ty::Text),
            "products" => ("name", Ty::Text),
            _ => ("customer_id", Ty::Int),
        }
    }

    /// A value that a free column may take for everybody: from free columns and constants.
    fn free_value(&mut self, ty: Ty, source: &Source) -> String {
        match ty {
            Ty::Int => format!("{}.id % 50 + 1", source.alias),
            _ => {
                let free: Columns = source
                    .columns
                    .iter()
                    .filter(|(n, _)| matches!(n.as_str(), "city" | "grade" | "item" | "status"))
                    .cloned()
                    .collect();
                let scope = [Source {
                    columns: free,
                    ..source.clone()
                }];
                self.expression(Ty::Text, 2, &scope)
            }
        }
    }

    fn returning(&mut self, source: &Source) -> String {
        match self.below(4) {
            0 => String::new(),
            1 => " RETURNING *".to_owned(),
            2 => {
                let ty = self.plain_type();
                format!(
                    " RETURNING {} AS r",
                    self.expression(ty, 2, std::slice::from_ref(source))
                )
            }
            _ => format!(
                " RETURNING {}.id, {}",
                source.alias,
                self.expression(Ty::Text, 2, std::slice::from_ref(source))
            ),
        }
    }

    fn update(&mut self) -> String {
        let (table, source) = self.table();
        let name = TABLES[source.table.unwrap()].0;
        let (column, ty) = Self::free_column(name);
        let value = self.free_value(ty, &source);
        let condition = self.condition(std::slice::from_ref(&source));
        let returning = self.returning(&source);
        format!("UPDATE {table} SET {column} = {value}{condition}{returning}")
    }

    fn delete(&mut self) -> String {
        let (table, source) = self.table();
        let condition = self.condition(std::slice::from_ref(&source));
        let returning = self.returning(&source);
        format!("DELETE FROM {table}{condition}{returning}")
    }

    fn insert(&mut self) -> String {
        let (from, source) = self.table();
        let scope = [source.clone()];
        let condition = self.condition(&scope);
        let name = self.pick(&["orders", "products"]);
        let (column, _) = Self::free_column(name);
        let value = self.free_value(Ty::Text, &source);
        let (columns, values) = if name == "orders" {
            (
                format!("id, customer_id, {column}"),
                format!("{0}.id + 10000, {0}.id, {value}", source.alias),
            )
        } else {
            (format!("id, {column}"), format!("{}.id + 10000, {value}", source.alias))
        };
        let conflict = self.pick(&["", " ON CONFLICT DO NOTHING", " ON CONFLICT (id) DO UPDATE SET"]);
        let conflict = if conflict.ends_with("SET") {
            format!("{conflict} {column} = excluded.{column} || 'again'")
        } else {
            conflict.to_owned()
        };
        let returning = self.pick(&["", " RETURNING id"]);
        format!("INSERT INTO crm.{name} ({columns}) SELECT {values} FROM {from}{condition}{conflict}{returning}")
    }
}

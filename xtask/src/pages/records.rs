//! What is listed, as statements that write it into a database: an import would take an hour for the trail of it alone.

use crate::chance::Chance;

/// How many keys the small account has.
pub(super) const FEW: usize = 1_000;
/// Of so many keys one is of an account that is neither the large nor the small one.
const OTHERS_EVERY: usize = 6;
/// Of so many keys one has it in its name.
const RARE: usize = 5_000;
/// Times begin here, in seconds since 1970; after that each key has a second of its own.
const START: usize = 1_704_067_200;

/// An account with many keys and one with few, whose rows lie among each other's and among those of others.
pub(super) struct Written {
    pub(super) many: String,
    pub(super) few: String,
    /// How many keys there are in all, by which times are found.
    pub(super) all: usize,
    pub(super) others: usize,
}

impl Written {
    pub(super) fn new(keys: usize, chance: &mut Chance) -> Self {
        Self {
            many: chance.uuid(),
            few: chance.uuid(),
            all: keys / (OTHERS_EVERY - 1) * OTHERS_EVERY,
            others: keys / 10,
        }
    }

    /// Of so many keys one is the small account's.
    const fn few_every(&self) -> usize {
        self.all / FEW
    }

    fn owned(&self, is_whose: impl Fn(usize) -> bool) -> usize {
        (1..=self.all).filter(|n| is_whose(*n)).count()
    }

    fn is_of_few(&self, n: usize) -> bool {
        n.is_multiple_of(self.few_every())
    }

    fn is_of_many(&self, n: usize) -> bool {
        !self.is_of_few(n) && n % OTHERS_EVERY != 1
    }

    pub(super) fn keys_of_many(&self) -> usize {
        self.owned(|n| self.is_of_many(n))
    }

    pub(super) fn keys_of_few(&self) -> usize {
        self.owned(|n| self.is_of_few(n))
    }

    /// When the `n`th key was made.
    pub(super) fn second(n: usize) -> String {
        let (days, rest) = (n / 86_400, n % 86_400);
        let (hours, minutes, seconds) = (rest / 3_600, rest / 60 % 60, rest % 60);
        // Of the days after the first of January 2024.
        let mut day = days;
        let (mut year, mut month) = (2024, 0_usize);
        loop {
            let february = if year % 4 == 0 { 29 } else { 28 };
            let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            let Some(length) = lengths.get(month) else {
                (year, month) = (year + 1, 0);
                continue;
            };
            if day < *length {
                break;
            }
            day -= length;
            month += 1;
        }
        let (month, day) = (month + 1, day + 1);
        format!("{year}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}Z")
    }

    /// A prefix of a key of each of the two, as [`Written::for_postgres`] and [`Written::for_sqlite`] make it.
    pub(super) fn prefixes(&self) -> [String; 2] {
        let middle = self.all / 2;
        let mut from_there = middle..;
        let many = from_there.find(|n| self.is_of_many(*n)).unwrap_or(middle);
        let few = middle / self.few_every() * self.few_every();
        // A number times an odd one, modulo a power of two, is another for each.
        [many, few].map(|n| format!("ldr_{:010X}", n * 2_654_435_761 % (1 << 40)))
    }

    pub(super) fn for_postgres(&self) -> Vec<String> {
        let Self {
            many,
            few,
            all,
            others,
        } = self;
        let few_every = self.few_every();
        let at = |n: &str| format!("to_timestamp({START} + {n})");
        let made = at("n");
        let used = at(&format!("floor(random() * {all})"));
        let expires = at(&format!("{all} + floor(random() * {all})"));
        let zeros = "0".repeat(64);
        let account = "INSERT INTO accounts (id, name, slug, created_at, updated_at, key_limit)";
        vec![
            format!(
                "{account} VALUES ('{many}', 'Many', 'many', {start}, {start}, 1000000000), ('{few}', 'Few', 'few', {start}, \
                 {start}, 1000)",
                start = at("0"),
            ),
            format!(
                "CREATE TEMP TABLE owners AS SELECT n AS place, gen_random_uuid() AS id FROM generate_series(0, {others} - 1) AS n"
            ),
            format!(
                "{account} SELECT id, 'Account ' || md5(n::text), 'account-' || n, {made}, {made}, 1000
                 FROM (SELECT place AS n, id FROM owners) AS owners"
            ),
            "ANALYZE owners".to_owned(),
            format!(
                "INSERT INTO api_keys (
                     id, account_id, name, key_hash, key_prefix, status, last_used_at, expires_at, created_at, updated_at
                 )
                 SELECT gen_random_uuid(),
                     CASE WHEN n % {few_every} = 0 THEN '{few}' WHEN n % {OTHERS_EVERY} = 1 THEN owners.id ELSE '{many}' END,
                     CASE WHEN random() * {RARE} < 1 THEN 'needle ' ELSE 'key ' END || md5(n::text), '{zeros}',
                     'ldr_' || upper(lpad(to_hex(n * 2654435761 % (1::bigint << 40)), 10, '0')),
                     (CASE WHEN random() * 10 < 1 THEN 'revoked' ELSE 'active' END)::api_key_status,
                     CASE WHEN random() * 3 > 1 THEN {used} END, CASE WHEN random() * 2 > 1 THEN {expires} END, {made}, {made}
                 FROM (SELECT n, n / {OTHERS_EVERY} % {others} AS place FROM generate_series(1::bigint, {all}) AS n) AS made
                 JOIN owners ON owners.place = made.place"
            ),
            format!(
                "INSERT INTO audit_entries (chain, seq, at, action, actor, key_id, previous, hash)
                 SELECT CASE WHEN n % {few_every} = 0 THEN '{few}'::uuid ELSE '{many}' END, n, {made}, 'key.created', 'tool',
                     gen_random_uuid(), '\\x00', '\\x00'
                 FROM generate_series(1::bigint, {all}) AS n"
            ),
        ]
    }

    pub(super) fn for_sqlite(&self) -> String {
        let Self { all, others, .. } = self;
        let [many, few] = [&self.many, &self.few].map(|id| format!("x'{}'", id.replace('-', "")));
        let few_every = self.few_every();
        let at = |n: &str| format!("({START} + {n}) * 1000000");
        let (start, made) = (at("0"), at("n"));
        let used = at(&format!("abs(random()) % {all}"));
        let expires = at(&format!("{all} + abs(random()) % {all}"));
        let zeros = "0".repeat(64);
        let account = "INSERT INTO accounts (id, name, slug, created_at, updated_at, key_limit)";
        let numbers = |to: usize| {
            format!(
                "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {to})"
            )
        };
        let (of_others, of_all) = (numbers(*others), numbers(*all));
        format!(
            "PRAGMA synchronous = OFF;
             PRAGMA cache_size = -200000;
             BEGIN;
             {account} VALUES ({many}, 'Many', 'many', {start}, {start}, 1000000000), ({few}, 'Few', 'few', {start}, {start}, 1000);
             CREATE TEMP TABLE owners (n INTEGER PRIMARY KEY, id BLOB);
             {of_others} INSERT INTO owners SELECT n - 1, randomblob(16) FROM numbers;
             {account} SELECT id, 'Account ' || hex(randomblob(8)), 'account-' || n, {made}, {made}, 1000 FROM owners;
             {of_all} INSERT INTO api_keys (
                 id, account_id, name, key_hash, key_prefix, status, last_used_at, expires_at, created_at, updated_at
             )
             SELECT randomblob(16),
                 CASE WHEN n % {few_every} = 0 THEN {few}
                     WHEN n % {OTHERS_EVERY} = 1 THEN (SELECT id FROM owners WHERE owners.n = numbers.n / {OTHERS_EVERY} % {others})
                     ELSE {many} END,
                 CASE WHEN abs(random()) % {RARE} = 0 THEN 'needle ' ELSE 'key ' END || lower(hex(randomblob(16))), '{zeros}',
                 'ldr_' || printf('%010X', n * 2654435761 % (1 << 40)),
                 CASE WHEN abs(random()) % 10 = 0 THEN 'revoked' ELSE 'active' END,
                 CASE WHEN abs(random()) % 3 > 0 THEN {used} END, CASE WHEN abs(random()) % 2 > 0 THEN {expires} END,
                 {made}, {made}
             FROM numbers;
             {of_all} INSERT INTO audit_entries (chain, seq, at, action, actor, key_id, previous, hash)
             SELECT CASE WHEN n % {few_every} = 0 THEN {few} ELSE {many} END, n, {made}, 'key.created', 'tool', randomblob(16),
                 zeroblob(32), zeroblob(32)
             FROM numbers;
             COMMIT;"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_timestamps_in_order() {
        assert_eq!(Written::second(0), "2024-01-01T00:00:00Z");
        assert_eq!(Written::second(86_399), "2024-01-01T23:59:59Z");
        assert_eq!(Written::second(59 * 86_400), "2024-02-29T00:00:00Z");
        assert_eq!(Written::second(366 * 86_400), "2025-01-01T00:00:00Z");
    }

    #[test]
    fn the_accounts_have_the_keys_that_they_are_to_have() {
        let written = Written::new(100_000, &mut Chance::new(1));
        assert_eq!(written.keys_of_few(), FEW);
        let many = written.keys_of_many();
        assert!((98_000..=100_000).contains(&many), "{many}");
    }

    #[test]
    fn a_prefix_is_of_the_account_that_it_is_for() {
        let written = Written::new(100_000, &mut Chance::new(1));
        let [many, few] = written.prefixes();
        assert_eq!((many.len(), few.len()), (14, 14));
        assert_ne!(many, few);
    }
}

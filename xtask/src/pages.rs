//! `cargo xtask pages`: a page of an account's keys costs the same however many the account has.
//!
//! One account has a million keys and one has a thousand, in one store, with their rows among each other's and among those of
//! a hundred thousand other accounts. The same pages of both are asked for in turn, over HTTP, and what is told is the ratio of
//! the medians. It is judged where a list is not narrowed: the first page, the one in the middle and the last whole one, in every
//! order; and where keys are narrowed, the first page, for which both may look at as many rows: later on a short list has fewer
//! left. Of a narrowed trail, the short one has fewer than are looked at.

mod records;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::apt;
use crate::bench::Kept;
use crate::bench::pinning::Pinning;
use crate::chance::{self, Chance};
use crate::cluster::{Cluster, Parts};
use crate::http::{Answer, Connection, Said};
use crate::load::Spread;
use crate::node::{self, Profile};
use crate::number;
use crate::postgres;
use crate::sh::{self, Failure, Outcome};

use records::Written;

const LIMIT: usize = 100;
/// How much dearer a page of the long list may be.
const BOUND: f64 = 1.2;
/// How often each page is asked for; in so many parts, the ratio of each of which is told.
const ROUNDS: usize = 400;
const PARTS: usize = 8;
/// How many neighbouring pages stand for a place, so that it is not always the same one; of a short list fewer.
const NEIGHBOURS: usize = 8;
/// After so many pages a narrowed list is measured again: to go to its end would take too long.
const FAR: usize = 50;
/// How much longer the whole account takes where it is not in the memory of a machine.
const TIMEOUT: Duration = Duration::from_mins(2);

/// `pages [--keys <n>] [--rounds <n>] [--store sqlite|postgres] [--only <list>] [--unanalyzed] [--program <path>] [--dev]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    let program = node::given_or_built(options.program.as_deref(), options.profile, None)?;
    let mut faults = Vec::new();
    for kept in &options.stores {
        faults.extend(measure(*kept, &program, &options)?);
    }
    sh::unless_none(&faults)
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    keys: usize,
    rounds: usize,
    stores: Vec<Kept>,
    /// The database is not told to look how its rows are spread.
    unanalyzed: bool,
    /// What the name of a list has to contain.
    only: Option<String>,
    /// A build that is there already.
    program: Option<PathBuf>,
    profile: Profile,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            keys: 1_000_000,
            rounds: ROUNDS,
            stores: vec![Kept::Sqlite, Kept::Postgres],
            unanalyzed: false,
            only: None,
            program: None,
            profile: Profile::Release,
        };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--keys" => {
                    options.keys = number::<usize>(word, words.next())?.max(10 * records::FEW);
                }
                "--rounds" => options.rounds = number::<usize>(word, words.next())?.max(PARTS),
                "--store" => match Kept::named(words.next())? {
                    Kept::Memory => {
                        return Err(Failure::usage("pages takes the stores sqlite and postgres"));
                    }
                    kept => options.stores = vec![kept],
                },
                "--unanalyzed" => options.unanalyzed = true,
                "--only" => options.only = Some(words.next().unwrap_or_default().to_owned()),
                "--program" => options.program = Some(node::program(words.next())?),
                "--dev" => options.profile = Profile::Dev,
                _ => return Err(Failure::usage(format!("pages does not know `{word}`"))),
            }
        }
        Ok(options)
    }
}

/// A list, by what is asked of it besides whose it is.
struct View {
    name: &'static str,
    query: [String; 2],
    is_narrow: bool,
}

impl View {
    fn plain(name: &'static str, query: &str) -> Self {
        Self {
            name,
            query: [query.to_owned(), query.to_owned()],
            is_narrow: false,
        }
    }

    fn narrow(name: &'static str, query: &str) -> Self {
        Self {
            is_narrow: true,
            ..Self::plain(name, query)
        }
    }
}

/// Every order, every filter, and some of both.
fn views(written: &Written) -> Vec<View> {
    let middle = Written::second(written.all / 2);
    let expiry = Written::second(written.all + written.all / 2);
    let [many, few] = written.prefixes();
    let mut views = vec![
        View::plain("newest first", "sort=-created_at"),
        View::plain("oldest first", "sort=created_at"),
        View::plain("by name", "sort=name"),
        View::plain("by name backwards", "sort=-name"),
        View::plain("made before", &format!("created_before={middle}")),
        View::plain("made after", &format!("created_after={middle}")),
        View::narrow(
            "made before, by name",
            &format!("created_before={middle}&sort=name"),
        ),
        View::narrow("active", "status=active"),
        View::narrow("revoked (1 in 10)", "status=revoked"),
        View::narrow("revoked, by name", "status=revoked&sort=name"),
        View::narrow("used before", &format!("last_used_before={middle}")),
        View::narrow("used after", &format!("last_used_after={middle}")),
        View::narrow("never used", "never_used=true"),
        View::narrow("expires before", &format!("expires_before={expiry}")),
        View::narrow("expires after", &format!("expires_after={expiry}")),
        View::narrow("name contains, most do", "name_contains=KEY"),
        View::narrow("name contains, 1 in 5,000", "name_contains=needle"),
        View::narrow("name contains, none does", "name_contains=nothing"),
        View::narrow("the same, by name", "name_contains=nothing&sort=name"),
        View::narrow("begins with ldr_A", "prefix=ldr_A"),
    ];
    views.push(View {
        name: "a whole prefix",
        query: [format!("prefix={many}"), format!("prefix={few}")],
        is_narrow: true,
    });
    views
}

/// Pages that are compared: of the long list, and of the short one.
struct Place {
    name: String,
    pages: [Vec<String>; 2],
    rows: [usize; 2],
    times: [Vec<f64>; 2],
    is_judged: bool,
}

fn measure(kept: Kept, program: &Path, options: &Options) -> Outcome<Vec<String>> {
    let pinning = Pinning::of_this_machine();
    let mut database = postgres::FAST.to_vec();
    if options.unanalyzed {
        database.push("autovacuum=off");
    }
    let mut cluster = Cluster::start(Parts {
        name: "pages",
        program,
        kept,
        nodes: 1,
        database: &database,
        prefixes: [pinning.server(), pinning.others()],
        settings: vec![("WORKERS", "1".to_owned())],
    })?;
    let begun = Instant::now();
    let written = Written::new(options.keys, &mut Chance::new(chance::seed()?));
    cluster.while_ended(|cluster| match &cluster.database {
        Some(server) => {
            let statements = written.for_postgres();
            let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
            server.sql(&statements).map(drop)
        }
        None => sqlite(cluster, &written.for_sqlite()),
    })?;
    if !options.unanalyzed {
        analyze(&cluster)?;
    }
    println!(
        "{}, an account of {} keys beside one of {} and {} others, {}; {}; loaded in {:.0} s",
        kept.name(),
        written.keys_of_many(),
        written.keys_of_few(),
        written.others,
        if options.unanalyzed {
            "not analyzed"
        } else {
            "analyzed"
        },
        pinning.description(),
        begun.elapsed().as_secs_f64(),
    );
    let places = find_places(&cluster, &written, options.only.as_deref())?;
    let faults = compare(&cluster, places, options.rounds)?;
    cluster.still_runs()?;
    Ok(faults
        .into_iter()
        .map(|fault| format!("{}: {fault}", kept.name()))
        .collect())
}

/// Has the database look how its rows are spread.
fn analyze(cluster: &Cluster) -> Outcome {
    if let Some(server) = &cluster.database {
        return server.sql(&["VACUUM ANALYZE"]).map(drop);
    }
    sqlite(cluster, "ANALYZE;")
}

/// Runs statements on the file.
fn sqlite(cluster: &Cluster, statements: &str) -> Outcome {
    if sh::find("sqlite3").is_none() {
        apt::install(
            "sqlite3",
            "sqlite3, which fills the database, is not there",
            "run `sudo apt-get install sqlite3`",
        )?;
    }
    let script = cluster.file().with_extension("sql");
    fs::write(&script, statements).map_err(Failure::when(script.display()))?;
    let file = fs::File::open(&script).map_err(Failure::when(script.display()))?;
    sh::run(
        sh::command("sqlite3")
            .arg("-bail")
            .arg(cluster.file())
            .stdin(file),
    )
}

/// The operator as a client that waits, and follows lists.
struct Reader<'a> {
    connection: Connection,
    key: &'a str,
}

impl<'a> Reader<'a> {
    fn of(cluster: &'a Cluster) -> Outcome<Self> {
        let address = cluster.addresses().first().copied();
        let address = address.ok_or_else(|| Failure::new("there is no node"))?;
        Ok(Self {
            connection: Connection::at(address, TIMEOUT),
            key: &cluster.operator,
        })
    }

    fn get(&mut self, path: &str) -> Outcome<Answer> {
        let said = Said {
            key: Some(self.key),
            body: None,
        };
        let answer = self.connection.send("GET", path, said);
        let answer = answer.map_err(Failure::when(path))?;
        if answer.status == 200 {
            return Ok(answer);
        }
        Err(Failure::new(format!(
            "GET {path} answered {}: {}",
            answer.status, answer.body
        )))
    }

    /// The addresses of a list's pages from the first on, of `size` rows each; no more than so many.
    fn pages(&mut self, list: &str, size: Option<usize>, most: usize) -> Outcome<Vec<String>> {
        let with_limit = |path: &str| match size {
            Some(size) => format!("{path}&limit={size}"),
            None => path.to_owned(),
        };
        let mut pages = vec![with_limit(list)];
        while pages.len() < most {
            let Some(page) = pages.last() else { break };
            let answer = self.get(page)?;
            let Some(next) = answer.next else { break };
            pages.push(next);
        }
        Ok(pages)
    }
}

fn rows(answer: &Answer) -> usize {
    let listed = answer.json();
    let listed = listed.get("entries").unwrap_or(&listed);
    listed.as_array().map_or(0, Vec::len)
}

fn find_places(cluster: &Cluster, written: &Written, only: Option<&str>) -> Outcome<Vec<Place>> {
    let mut reader = Reader::of(cluster)?;
    let mut places = Vec::new();
    let is_wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    for view in views(written)
        .into_iter()
        .filter(|view| is_wanted(view.name))
    {
        let [many, few] = &view.query;
        let long = format!("/v1/api-keys?account_id={}&{many}", written.many);
        let short = format!("/v1/api-keys?account_id={}&{few}", written.few);
        compare_lists(&mut reader, &mut places, &view, [long, short])?;
    }
    for view in [
        View::plain("trail", ""),
        View::narrow("trail, nothing passes", "&action=key.renamed"),
        View::narrow(
            "trail, of a span of time",
            "&since=2020-01-01T00:00:00Z&until=2100-01-01T00:00:00Z",
        ),
    ] {
        if !is_wanted(view.name) {
            continue;
        }
        let [query, _] = &view.query;
        let long = format!("/v1/audit?account_id={}{query}", written.many);
        let short = format!("/v1/audit?account_id={}{query}", written.few);
        compare_lists(&mut reader, &mut places, &view, [long, short])?;
    }
    // There is one list of accounts; so it is compared with its own first page.
    for (name, query) in [
        ("accounts, newest first", "sort=-created_at"),
        ("accounts, by name", "sort=name"),
        ("accounts, name contains", "name_contains=0"),
    ] {
        if !is_wanted(name) {
            continue;
        }
        let list = format!("/v1/accounts?{query}");
        let pages = reader.pages(&list, None, usize::MAX)?;
        let [first, middle, end] = spots(&pages, neighbours(&pages));
        let first = with_limit(first);
        for (place, pages) in [("middle", with_limit(middle)), ("end", with_limit(end))] {
            let mut place = Place::of(
                name,
                place,
                [pages, first.clone()],
                !query.contains("name_c"),
            );
            place.name += " to first";
            places.push(place);
        }
    }
    Ok(places)
}

/// The same pages of a long list and of a short one.
fn compare_lists(
    reader: &mut Reader<'_>,
    places: &mut Vec<Place>,
    view: &View,
    [long, short]: [String; 2],
) -> Outcome {
    // A cursor is good for pages of every size, so the way through the long list goes in larger ones.
    let most = if view.is_narrow { FAR } else { usize::MAX };
    let size = long.contains("/audit").then_some(LIMIT);
    let most = if size.is_some() {
        most.min(10 * FAR)
    } else {
        most
    };
    let long = reader.pages(&long, size, most)?;
    let short = reader.pages(&short, Some(LIMIT), usize::MAX)?;
    // As many of both, so that the one has no more of them at hand than the other.
    let few = neighbours(&long).min(neighbours(&short));
    let has_more = long.len() > 1;
    let ([long_first, long_middle, long_last], [first, middle, last]) =
        (spots(&long, few), spots(&short, few));
    for (name, long, short) in [
        ("first", long_first, first),
        ("middle", long_middle, middle),
        (if view.is_narrow { "far" } else { "end" }, long_last, last),
    ] {
        if name == "first" || has_more {
            let pages = [with_limit(long), with_limit(short)];
            let is_judged = !view.is_narrow || (name == "first" && size.is_none());
            places.push(Place::of(view.name, name, pages, is_judged));
        }
    }
    Ok(())
}

/// How many pages of a list may stand for a place.
fn neighbours(pages: &[String]) -> usize {
    NEIGHBOURS.min(pages.len() / 2).max(1)
}

/// The first page, so many in the middle, and the last whole ones: the very last may have fewer rows, so it is left out.
fn spots(pages: &[String], few: usize) -> [&[String]; 3] {
    let whole = pages
        .get(..pages.len().saturating_sub(1))
        .filter(|whole| !whole.is_empty());
    let whole = whole.unwrap_or(pages);
    let from = |from: usize| {
        let rest = whole.get(from..).unwrap_or_default();
        rest.get(..few.min(rest.len())).unwrap_or_default()
    };
    [
        pages.get(..1).unwrap_or_default(),
        from(whole.len().saturating_sub(few) / 2),
        from(whole.len().saturating_sub(few)),
    ]
}

/// The same pages, of as many rows as are measured.
fn with_limit(pages: &[String]) -> Vec<String> {
    let limit = format!("limit={LIMIT}");
    let limited = |page: &String| {
        if page.contains("limit=") {
            page.clone()
        } else {
            format!("{page}&{limit}")
        }
    };
    pages.iter().map(limited).collect()
}

impl Place {
    fn of(view: &str, name: &str, pages: [Vec<String>; 2], is_judged: bool) -> Self {
        Self {
            name: format!("{view}, {name}"),
            pages,
            rows: [0; 2],
            times: [Vec::new(), Vec::new()],
            is_judged,
        }
    }

    /// The ratio of the medians, of all that was measured, and with that of each part.
    fn ratio(&self) -> Option<(f64, Spread)> {
        let [long, short] = &self.times;
        let of = |long: &[f64], short: &[f64]| {
            Some(
                Spread::of(long.iter().copied())?.median
                    / Spread::of(short.iter().copied())?.median,
            )
        };
        let size = long.len().div_ceil(PARTS).max(1);
        let parts = long.chunks(size).zip(short.chunks(size));
        let parts = parts.filter_map(|(long, short)| of(long, short));
        Some((of(long, short)?, Spread::of(parts)?))
    }
}

/// Asks for every page in turn, and tells what each took. Answers what is too dear.
fn compare(cluster: &Cluster, mut places: Vec<Place>, rounds: usize) -> Outcome<Vec<String>> {
    let mut reader = Reader::of(cluster)?;
    // Some first, that are not counted: until plans are made and pages are in memory.
    let warm = NEIGHBOURS * 2;
    for place in &mut places {
        for round in 0..warm + rounds {
            // The one that comes first is another each time.
            for turn in [round % 2, (round + 1) % 2] {
                let (Some(pages), Some(times)) = (place.pages.get(turn), place.times.get_mut(turn))
                else {
                    continue;
                };
                let page = round
                    .checked_rem(pages.len())
                    .and_then(|place| pages.get(place));
                let Some(page) = page else { continue };
                let asked = Instant::now();
                let answer = reader.get(page)?;
                let took = asked.elapsed().as_secs_f64() * 1e6;
                if round >= warm {
                    times.push(took);
                }
                if let Some(known) = place.rows.get_mut(turn) {
                    *known = rows(&answer);
                }
            }
        }
    }
    let mut faults = Vec::new();
    for place in &places {
        let Some((ratio, Spread { min, max, .. })) = place.ratio() else {
            continue;
        };
        let [long, short] = &place.times;
        let median = |times: &[f64]| Spread::of(times.iter().copied()).map_or(0.0, |it| it.median);
        let [long_rows, short_rows] = place.rows;
        println!(
            "  {:<44} {ratio:>5.2}  ({min:.2} to {max:.2})  {:>8.0} us, {long_rows:>3} rows  {:>8.0} us, {short_rows:>3} rows",
            place.name,
            median(long),
            median(short),
        );
        if place.is_judged && ratio > BOUND {
            faults.push(format!("{}: {ratio:.2} times as dear", place.name));
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words;

    #[test]
    fn options_are_read() {
        let options = Options::parse(&words(
            "--keys 9000 --rounds 80 --store postgres --unanalyzed",
        ));
        let options = options.unwrap();
        assert_eq!((options.keys, options.rounds), (10_000, 80));
        assert_eq!(
            (options.stores, options.unanalyzed),
            (vec![Kept::Postgres], true)
        );
        for line in ["--store memory", "--store", "--keys", "--rounds x", "now"] {
            assert!(
                Options::parse(&words(line)).unwrap_err().is_usage(),
                "{line}"
            );
        }
    }

    #[test]
    fn places_are_within_the_list() {
        let pages: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let [first, middle, last] = spots(&pages, 8);
        assert_eq!(first, ["0"]);
        assert_eq!((middle.len(), middle[0].as_str()), (8, "45"));
        assert_eq!(last.last().unwrap(), "98", "the last one may be shorter");
        let one = [String::from("only")];
        assert_eq!(spots(&one, 1), [&one[..], &one[..], &one[..]]);
        for n in 2..20 {
            let few: Vec<String> = (0..n).map(|n| n.to_string()).collect();
            let spots = spots(&few, neighbours(&few));
            assert!(spots.iter().all(|spot| !spot.is_empty()), "{n}");
        }
    }

    #[test]
    fn the_ratio_is_of_medians() {
        let mut place = Place::of("x", "first", [Vec::new(), Vec::new()], true);
        place.times = [vec![2.0; 80], vec![1.0; 80]];
        let (ratio, spread) = place.ratio().unwrap();
        assert_eq!((ratio, spread.min, spread.max), (2.0, 2.0, 2.0));
    }
}

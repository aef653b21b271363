//! How deep a statement's tree can be at most, told from its tokens.
//!
//! A chain (`1 + 1 + …`, `a OR b OR …`, `SELECT … UNION SELECT …`, `FROM a, b, …`) nests without
//! any bracket: its tree is as deep as it is long. Whoever walks the tree, or just drops it,
//! recurses as deep; so it is bounded before there is a tree.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

/// One pair of parentheses or `CASE … END`, while its tokens pass.
#[derive(Default)]
struct Level {
    /// `AND` and `OR` since the last comma.
    chain: usize,
    /// Other operators since the last of those.
    term: usize,
    /// Whether a comma joins tables.
    in_from: bool,
}

/// How deep the syntax tree of some tokens will be, at most and about: what nests, plus what
/// chains within it, plus what joins and unites relations.
pub(crate) fn depth(tokens: &[TokenWithSpan]) -> usize {
    let mut levels = vec![Level::default()];
    let mut outer = 0;
    let (mut deepest, mut relations) = (0, 0);
    for token in tokens {
        let level = levels.last_mut().expect("the outermost level stays");
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                outer += level.chain + level.term + 1;
                levels.push(Level::default());
            }
            Token::RParen | Token::RBracket | Token::RBrace => leave(&mut levels, &mut outer),
            Token::Comma => {
                relations += usize::from(level.in_from);
                (level.chain, level.term) = (0, 0);
            }
            Token::Word(word) if word.quote_style.is_none() => {
                match word.value.to_ascii_uppercase().as_str() {
                    "AND" | "OR" | "XOR" => {
                        level.chain += 1;
                        level.term = 0;
                    }
                    "NOT" | "NOTNULL" | "IS" | "LIKE" | "ILIKE" | "RLIKE" | "REGEXP" | "MATCH"
                    | "SIMILAR" | "MEMBER" | "IN" | "BETWEEN" | "OVERLAPS" | "OPERATOR" | "DIV"
                    | "COLLATE" | "AT" | "INTERVAL" => level.term += 1,
                    "CASE" => {
                        outer += level.chain + level.term + 1;
                        levels.push(Level::default());
                    }
                    "END" => leave(&mut levels, &mut outer),
                    "UNION" | "EXCEPT" | "INTERSECT" | "MINUS" | "JOIN" | "APPLY" | "PIVOT"
                    | "UNPIVOT" | "MATCH_RECOGNIZE" => relations += 1,
                    "FROM" => level.in_from = true,
                    "SELECT" => {
                        // A query within a query takes the stack of several operators.
                        *level = Level::default();
                        deepest = deepest.max(outer + 4 * levels.len());
                    }
                    "WHERE" | "GROUP" | "HAVING" | "ORDER" | "LIMIT" | "ON" => {
                        *level = Level::default();
                    }
                    _ => {}
                }
            }
            Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::Period
            | Token::Placeholder(_) => {}
            _ => level.term += 1,
        }
        let here = levels.last().map_or(0, |level| level.chain + level.term);
        deepest = deepest.max(outer + here);
    }
    deepest + relations
}

/// Leaves a level; what stood before it counts again.
fn leave(levels: &mut Vec<Level>, outer: &mut usize) {
    if levels.len() > 1 {
        levels.pop();
        let level = levels.last().expect("the outermost level stays");
        *outer -= level.chain + level.term + 1;
    }
}

/// How many parentheses may follow each other where a table is named.
const TABLE_PARENTHESES_MAX: usize = 8;

/// Whether tables stand in more parentheses than they need. sqlparser tries each of them twice,
/// as a query and as a join: 2^n times.
pub(crate) fn nests_tables(tokens: &[TokenWithSpan]) -> bool {
    let mut run: Option<usize> = None;
    for token in tokens {
        run = match &token.token {
            Token::Word(word)
                if ["FROM", "JOIN", "LATERAL"]
                    .iter()
                    .any(|w| word.value.eq_ignore_ascii_case(w)) =>
            {
                Some(0)
            }
            Token::Comma => Some(0),
            Token::LParen => run.map(|run| run + 1),
            _ => None,
        };
        if run > Some(TABLE_PARENTHESES_MAX) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::PostgreSqlDialect, tokenizer::Tokenizer};

    use super::*;

    #[test]
    fn chains_count_and_lists_do_not() {
        let check = |text: &str, expected: usize| {
            let tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize_with_location();
            let mut tokens = tokens.expect("tokens");
            tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
            assert_eq!(depth(&tokens), expected, "{text}");
        };
        check("a", 0);
        check("a + 2 + 3", 2);
        check("a NOTNULL NOTNULL NOTNULL", 3);
        check("a SIMILAR TO b OVERLAPS c DIV d", 3);
        check("a OPERATOR(pg_catalog.+) b", 3);
        check("x MINUS SELECT y", 5);
        check("a + 2, 3 + 4, 5 + 6", 1);
        check("a + (2 + (3 + 4))", 5);
        check("x WHERE a = 1 AND b = 2 AND c = 3", 3);
        check("x FROM a, b, c", 2);
        check("x FROM a JOIN b ON true JOIN c ON true", 2);
        check("CASE WHEN a THEN CASE WHEN b THEN c END END", 2);
        check(")))1 + 1", 1);
    }
}

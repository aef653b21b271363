//! How deep a statement's tree can be at most, told from its tokens.
//!
//! The parser bounds nesting by brackets. A chain (`1 + 1 + …`, `a OR b OR …`, `SELECT … UNION
//! SELECT …`, `FROM a, b, …`) nests without any: its tree is as deep as it is long. Whoever walks
//! the tree, or just drops it, recurses as deep; so a chain's length is bounded before there is
//! a tree.
//!
//! 1. Each bracket opens a level; what counts is the sum over the levels that are open.
//! 2. In a level, operators count until a comma ends the chain; joins and set operations count to
//!    the end of the level, and so do the commas of a FROM.

use datafusion::sql::sqlparser::{
    keywords::Keyword,
    tokenizer::{Token, TokenWithSpan},
};

#[derive(Default)]
struct Level {
    operators: usize,
    relations: usize,
    in_from: bool,
}

/// The longest path that the statement's tree can have, in operators.
pub(crate) fn depth<'a>(tokens: impl IntoIterator<Item = &'a TokenWithSpan>) -> usize {
    let mut levels = vec![Level::default()];
    let mut deepest = 0;
    for token in tokens {
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => levels.push(Level::default()),
            Token::RParen | Token::RBracket | Token::RBrace if levels.len() > 1 => {
                levels.pop();
            }
            token => {
                // The outermost level stays, whatever closes.
                if let Some(level) = levels.last_mut() {
                    level.count(token);
                }
            }
        }
        let open = levels.iter().map(|level| level.operators + level.relations + 1).sum();
        deepest = deepest.max(open);
    }
    deepest
}

impl Level {
    fn count(&mut self, token: &Token) {
        match token {
            Token::Comma if self.in_from => self.relations += 1,
            Token::Comma => self.operators = 0,
            Token::Word(word) if word.quote_style.is_none() => self.count_word(word.keyword),
            Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::Placeholder(_) => {}
            _ => self.operators += 1,
        }
    }

    fn count_word(&mut self, keyword: Keyword) {
        match keyword {
            Keyword::FROM => self.in_from = true,
            Keyword::WHERE | Keyword::GROUP | Keyword::ORDER | Keyword::HAVING => {
                self.in_from = false;
            }
            Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT => {
                self.in_from = false;
                self.operators = 0;
                self.relations += 1;
            }
            Keyword::JOIN => self.relations += 1,
            Keyword::AND
            | Keyword::OR
            | Keyword::NOT
            | Keyword::IS
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::BETWEEN
            | Keyword::COLLATE
            | Keyword::AT => self.operators += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::PostgreSqlDialect, tokenizer::Tokenizer};

    use super::*;

    #[test]
    fn chains_count_and_lists_do_not() {
        let check = |text: &str, expected: usize| {
            let tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize_with_location();
            let tokens: Vec<_> = tokens
                .unwrap()
                .into_iter()
                .filter(|token| !matches!(token.token, Token::Whitespace(_)))
                .collect();
            assert_eq!(depth(&tokens), expected, "{text}");
        };
        check("SELECT 1", 1);
        check("SELECT 1 + 2 + 3", 3);
        check("SELECT 1 + 2, 3 + 4, 5 + 6", 2);
        check("SELECT x WHERE a IN (1, 2, 3)", 2);
        check("SELECT 1 + (2 + (3 + 4))", 6);
        check("SELECT (1 + 2), (3 + 4)", 3);
        check("SELECT 1 FROM a, b, c", 3);
        check("SELECT a, b FROM a JOIN b ON true JOIN c ON true", 3);
        check("SELECT 1 UNION SELECT 2 UNION SELECT 3", 3);
        check("SELECT x WHERE a = 1 AND b = 2", 4);
        check(")))1 + 1", 5);
    }
}

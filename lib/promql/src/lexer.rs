//! Text to tokens, with the errors Prometheus' lexer gives.

use crate::ast::Span;
use crate::printer::{code_escape, is_print};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Eof,
    /// The message is [`Lexed::error`].
    Error,
    Identifier,
    /// An identifier with a colon.
    MetricIdentifier,
    Number,
    Duration,
    String,
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    Comma,
    Colon,
    /// `=`.
    Assign,
    Keyword,
    Aggregator,
    /// An operator, spelled with signs or with letters (`and`).
    Operator,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) token: Token,
    pub(crate) span: Span,
}

#[derive(Debug, Default)]
pub(crate) struct Lexed {
    /// Ends with [`Token::Eof`] or [`Token::Error`].
    pub(crate) items: Vec<Item>,
    pub(crate) error: String,
}

const KEYWORDS: &[&str] = &[
    "bool",
    "by",
    "group_left",
    "group_right",
    "ignoring",
    "offset",
    "on",
    "without",
    "start",
    "end",
    "step",
    "range",
    "anchored",
    "smoothed",
    "fill",
    "fill_left",
    "fill_right",
    "min_of",
    "max_of",
];
const AGGREGATORS: &[&str] = &[
    "avg",
    "bottomk",
    "count",
    "count_values",
    "group",
    "max",
    "min",
    "quantile",
    "stddev",
    "stdvar",
    "sum",
    "topk",
    "limitk",
    "limit_ratio",
];

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    parens: usize,
    brace: bool,
    bracket: bool,
    /// Within brackets, whether the colon of a subquery has been seen.
    colon: bool,
    out: Lexed,
}

pub(crate) fn lex(text: &str) -> Lexed {
    let mut lexer = Lexer {
        text,
        at: 0,
        parens: 0,
        brace: false,
        bracket: false,
        colon: false,
        out: Lexed::default(),
    };
    if let Err((start, message)) = lexer.run() {
        lexer.out.error = message;
        lexer.out.items.push(Item {
            token: Token::Error,
            span: Span::new(start, text.len()),
        });
    }
    lexer.out
}

type LexResult = Result<(), (usize, String)>;

pub(crate) fn quote_char(c: char) -> String {
    match c {
        '\'' => "'\\''".to_owned(),
        '\\' => "'\\\\'".to_owned(),
        '\n' => "'\\n'".to_owned(),
        '\t' => "'\\t'".to_owned(),
        '\r' => "'\\r'".to_owned(),
        c if (c as u32) < 0x20 || c as u32 == 0x7f => format!("'\\x{:02x}'", c as u32),
        c if !is_print(c) => format!("'{}'", code_escape(c)),
        c => format!("'{c}'"),
    }
}

/// As Go's `%#U`.
fn code_point(c: char) -> String {
    match is_print(c) {
        true => format!("U+{:04X} '{c}'", c as u32),
        false => format!("U+{:04X}", c as u32),
    }
}

fn is_ident_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

impl<'a> Lexer<'a> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn peek_at(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn emit(&mut self, token: Token, start: usize) {
        self.out.items.push(Item {
            token,
            span: Span::new(start, self.at),
        });
    }

    fn run(&mut self) -> LexResult {
        loop {
            let start = self.at;
            let Some(c) = self.peek() else { return self.end() };
            if c.is_ascii_whitespace() {
                self.at += 1;
            } else if c == '#' {
                self.at += self.text[self.at..].find('\n').unwrap_or(self.text.len() - self.at);
            } else if self.brace {
                self.inside_braces(c, start)?;
            } else {
                self.statement(c, start)?;
            }
        }
    }

    fn end(&mut self) -> LexResult {
        if self.brace {
            return Err((self.at, "unexpected end of input inside braces".to_owned()));
        }
        if self.parens > 0 {
            return Err((self.at, "unclosed left parenthesis".to_owned()));
        }
        if self.bracket {
            return Err((self.at, "unclosed left bracket".to_owned()));
        }
        self.emit(Token::Eof, self.at);
        Ok(())
    }

    fn take(&mut self, token: Token, start: usize, len: usize) -> LexResult {
        self.at += len;
        self.emit(token, start);
        Ok(())
    }

    fn statement(&mut self, c: char, start: usize) -> LexResult {
        let next = self.peek_at(1);
        match c {
            ',' => self.take(Token::Comma, start, 1),
            '*' | '%' | '+' | '-' | '^' | '/' | '@' => self.take(Token::Operator, start, 1),
            '=' if next == Some(b'=') => self.take(Token::Operator, start, 2),
            '=' if next == Some(b'~') => Err((start, "unexpected character after '=': '~'".to_owned())),
            '=' => self.take(Token::Assign, start, 1),
            '!' if next == Some(b'=') => self.take(Token::Operator, start, 2),
            '!' => {
                let what = self.text[start + 1..]
                    .chars()
                    .next()
                    .map_or_else(|| "'\\ufffd'".to_owned(), quote_char);
                Err((start, format!("unexpected character after '!': {what}")))
            }
            '<' | '>' if next == Some(b'=') || next == Some(b'/') => self.take(Token::Operator, start, 2),
            '<' | '>' => self.take(Token::Operator, start, 1),
            '"' | '\'' => self.string(c, start),
            '`' => self.raw_string(start),
            '(' => {
                self.parens += 1;
                self.take(Token::LeftParen, start, 1)
            }
            ')' => {
                if self.parens == 0 {
                    return Err((start + 1, "unexpected right parenthesis ')'".to_owned()));
                }
                self.parens -= 1;
                self.take(Token::RightParen, start, 1)
            }
            '{' => {
                self.brace = true;
                self.take(Token::LeftBrace, start, 1)
            }
            '[' => {
                if self.bracket {
                    return Err((start, "unexpected left bracket '['".to_owned()));
                }
                (self.bracket, self.colon) = (true, false);
                self.take(Token::LeftBracket, start, 1)
            }
            ']' => {
                if !self.bracket {
                    return Err((start, "unexpected right bracket ']'".to_owned()));
                }
                self.bracket = false;
                self.take(Token::RightBracket, start, 1)
            }
            ':' if self.bracket => {
                if self.colon {
                    return Err((start, "unexpected colon ':'".to_owned()));
                }
                self.colon = true;
                self.take(Token::Colon, start, 1)
            }
            c if c.is_ascii_digit() || (c == '.' && next.is_some_and(|n| n.is_ascii_digit())) => self.number(start),
            c if is_ident_start(c) || c == ':' => {
                self.word(start);
                Ok(())
            }
            c => Err((start, format!("unexpected character: {}", quote_char(c)))),
        }
    }

    fn inside_braces(&mut self, c: char, start: usize) -> LexResult {
        let next = self.peek_at(1);
        match c {
            '{' => Err((start, "unexpected left brace '{'".to_owned())),
            '}' => {
                self.brace = false;
                self.take(Token::RightBrace, start, 1)
            }
            ',' => self.take(Token::Comma, start, 1),
            '"' | '\'' => self.string(c, start),
            '`' => self.raw_string(start),
            '=' if next == Some(b'~') => self.take(Token::Operator, start, 2),
            '=' => self.take(Token::Assign, start, 1),
            '!' if next == Some(b'=') || next == Some(b'~') => self.take(Token::Operator, start, 2),
            '!' => {
                let what = self.text[start + 1..]
                    .chars()
                    .next()
                    .map_or_else(|| "'\\ufffd'".to_owned(), quote_char);
                Err((start, format!("unexpected character after '!' inside braces: {what}")))
            }
            c if is_ident_start(c) => {
                self.skip_while(|c| c.is_ascii_alphanumeric() || c == '_');
                self.emit(Token::Identifier, start);
                Ok(())
            }
            c => Err((start, format!("unexpected character inside braces: {}", quote_char(c)))),
        }
    }

    fn skip_while(&mut self, keep: impl Fn(char) -> bool) {
        let rest = &self.text[self.at..];
        self.at += rest.find(|c| !keep(c)).unwrap_or(rest.len());
    }

    fn word(&mut self, start: usize) {
        self.skip_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
        let word = self.text[start..self.at].to_ascii_lowercase();
        let token = match word.as_str() {
            "inf" | "nan" => Token::Number,
            "and" | "or" | "unless" | "atan2" => Token::Operator,
            w if KEYWORDS.contains(&w) => Token::Keyword,
            w if AGGREGATORS.contains(&w) => Token::Aggregator,
            w if w.contains(':') => Token::MetricIdentifier,
            _ => Token::Identifier,
        };
        self.emit(token, start);
    }

    fn string(&mut self, quote: char, start: usize) -> LexResult {
        self.at += 1;
        while let Some(c) = self.peek() {
            match c {
                '\n' => break,
                '\\' => self.escape(quote, start)?,
                c => {
                    self.at += c.len_utf8();
                    if c == quote {
                        self.emit(Token::String, start);
                        return Ok(());
                    }
                }
            }
        }
        Err((start, "unterminated quoted string".to_owned()))
    }

    /// Checks what follows a backslash.
    fn escape(&mut self, quote: char, start: usize) -> LexResult {
        self.at += 1;
        let Some(c) = self.peek() else {
            return Err((start, "escape sequence not terminated".to_owned()));
        };
        self.at += c.len_utf8();
        let (digits, base) = match c {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' => return Ok(()),
            c if c == quote => return Ok(()),
            '0'..='7' => {
                self.at -= 1;
                (3, 8)
            }
            'x' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            c => return Err((start, format!("unknown escape sequence {}", code_point(c)))),
        };
        let from = self.at;
        for _ in 0..digits {
            match self.peek() {
                Some(c) if c.is_digit(base) => self.at += 1,
                Some(c) => return Err((start, format!("illegal character {} in escape sequence", code_point(c)))),
                None => return Err((start, "escape sequence not terminated".to_owned())),
            }
        }
        let value = u32::from_str_radix(&self.text[from..self.at], base).unwrap_or(u32::MAX);
        // Three octal digits, like two hexadecimal ones, stand for a byte; the others for a character.
        let valid = if digits <= 3 {
            value <= 0xff
        } else {
            char::from_u32(value).is_some()
        };
        if valid {
            Ok(())
        } else {
            Err((start, "escape sequence is an invalid Unicode code point".to_owned()))
        }
    }

    fn raw_string(&mut self, start: usize) -> LexResult {
        match self.text[start + 1..].find('`') {
            Some(len) => self.take(Token::String, start, len + 2),
            None => Err((start, "unterminated raw string".to_owned())),
        }
    }

    fn digits(&mut self) {
        self.skip_while(|c| c.is_ascii_digit() || c == '_');
    }

    fn accept(&mut self, set: &str) -> bool {
        let there = self.peek().is_some_and(|c| set.contains(c));
        self.at += usize::from(there);
        there
    }

    /// A number or, when units follow, a duration. What is wrong with either is said when its value is wanted.
    fn number(&mut self, start: usize) -> LexResult {
        if self.peek() == Some('0') && matches!(self.peek_at(1), Some(b'x' | b'X')) {
            self.at += 2;
            self.skip_while(|c| c.is_ascii_hexdigit() || c == '_');
        } else {
            self.digits();
            if self.accept(".") {
                self.digits();
            }
            if self.accept("eE") {
                self.accept("+-");
                self.digits();
            }
        }
        let in_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !self.peek().is_some_and(in_word) {
            self.emit(Token::Number, start);
            return Ok(());
        }
        if self.units() {
            if !self.peek().is_some_and(in_word) {
                self.emit(Token::Duration, start);
                return Ok(());
            }
            self.at += 1;
        }
        Err((
            start,
            format!("bad number or duration syntax: {:?}", &self.text[start..self.at]),
        ))
    }

    /// Takes `d5h30m` after the first number of a duration.
    fn units(&mut self) -> bool {
        if !self.accept("smhdwy") {
            return false;
        }
        self.accept("s");
        while self.accept("0123456789") {
            self.skip_while(|c| c.is_ascii_digit());
            if !self.accept("smhdw") {
                return false;
            }
            self.accept("s");
        }
        true
    }
}

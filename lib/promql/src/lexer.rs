//! Text to tokens, with the errors Prometheus' lexer gives.

use crate::ast::Span;

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
        c => format!("'{c}'"),
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
            '=' if next == Some(b'=') || next == Some(b'~') => self.take(Token::Operator, start, 2),
            '=' => self.take(Token::Assign, start, 1),
            '!' if next == Some(b'=') => self.take(Token::Operator, start, 2),
            '!' => {
                let what = self.text[start + 1..]
                    .chars()
                    .next()
                    .map_or_else(|| "EOF".to_owned(), quote_char);
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
                    return Err((start, "unexpected right parenthesis ')'".to_owned()));
                }
                self.parens -= 1;
                self.take(Token::RightParen, start, 1)
            }
            '{' => {
                self.brace = true;
                self.take(Token::LeftBrace, start, 1)
            }
            '}' => Err((start, "unexpected right brace '}'".to_owned())),
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
                    .map_or_else(|| "EOF".to_owned(), quote_char);
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
                '\\' => {
                    self.at += 1;
                    match self.peek() {
                        None | Some('\n') => break,
                        Some(escaped) => self.at += escaped.len_utf8(),
                    }
                }
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

    fn raw_string(&mut self, start: usize) -> LexResult {
        match self.text[start + 1..].find('`') {
            Some(len) => self.take(Token::String, start, len + 2),
            None => Err((start, "unterminated raw string".to_owned())),
        }
    }

    fn digits(&mut self) {
        self.skip_while(|c| c.is_ascii_digit() || c == '_');
    }

    /// A number or, when letters of units follow, a duration.
    fn number(&mut self, start: usize) -> LexResult {
        if self.peek() == Some('0') && matches!(self.peek_at(1), Some(b'x' | b'X')) {
            self.at += 2;
            self.skip_while(|c| c.is_ascii_hexdigit() || c == '_');
            return self.finish_number(start, Token::Number);
        }
        self.digits();
        if self.unit() {
            while self.peek().is_some_and(|c| c.is_ascii_digit()) {
                self.digits();
                if !self.unit() {
                    self.skip_while(|c| c.is_ascii_alphanumeric());
                    return Err((
                        start,
                        format!("bad number or duration syntax: {:?}", &self.text[start..self.at]),
                    ));
                }
            }
            return self.finish_number(start, Token::Duration);
        }
        if self.peek() == Some('.') {
            self.at += 1;
            self.digits();
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            let sign = usize::from(matches!(self.peek_at(1), Some(b'+' | b'-')));
            if self.peek_at(1 + sign).is_some_and(|b| b.is_ascii_digit()) {
                self.at += 1 + sign;
                self.digits();
            }
        }
        self.finish_number(start, Token::Number)
    }

    /// Takes one unit of a duration.
    fn unit(&mut self) -> bool {
        let len = match (self.peek(), self.peek_at(1)) {
            (Some('m'), Some(b's')) => 2,
            (Some('s' | 'm' | 'h' | 'd' | 'w' | 'y'), _) => 1,
            _ => return false,
        };
        self.at += len;
        true
    }

    fn finish_number(&mut self, start: usize, token: Token) -> LexResult {
        let bad_tail = self
            .peek()
            .is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        if bad_tail {
            self.skip_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
            return Err((
                start,
                format!("bad number or duration syntax: {:?}", &self.text[start..self.at]),
            ));
        }
        self.emit(token, start);
        Ok(())
    }
}

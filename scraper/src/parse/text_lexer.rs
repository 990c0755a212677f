//! Tokens of the Prometheus text format, versions 0.0.4 and 1.0.0.

use super::lexer::{COLON, DIGIT, Lexer, NAME_START, Token, is, name_end, quoted_end, run_end};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Init,
    /// After HELP or TYPE.
    MetadataName,
    MetadataText,
    Labels,
    LabelValue,
    Value,
    Timestamp,
}

#[derive(Debug)]
pub(super) struct TextLexer<'a> {
    pub(super) input: &'a [u8],
    start: usize,
    pos: usize,
    state: State,
    /// The input ends without a newline: one is read there.
    virtual_newline: bool,
}

impl<'a> TextLexer<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            start: 0,
            pos: 0,
            state: State::Init,
            virtual_newline: input.last().is_some_and(|b| *b != b'\n'),
        }
    }

    /// At the beginning of a line: a series ends at `end`, and its value follows.
    pub(super) fn pass_series(&mut self, end: usize) {
        self.start = self.pos;
        self.pos = end;
        self.state = State::Value;
    }

    fn take(&mut self, end: usize, next: State, token: Token) -> Token {
        self.pos = end;
        self.state = next;
        token
    }

    #[inline]
    fn skip_blanks(&mut self) {
        while matches!(self.input.get(self.pos), Some(b' ' | b'\t')) {
            self.pos += 1;
        }
        self.start = self.pos;
    }

    fn linebreak(&mut self) -> Option<Token> {
        match self.input.get(self.pos) {
            Some(b'\n') => Some(self.take(self.pos + 1, State::Init, Token::Linebreak)),
            None if self.virtual_newline => {
                self.virtual_newline = false;
                Some(self.take(self.pos, State::Init, Token::Linebreak))
            }
            _ => None,
        }
    }

    fn comment(&mut self) -> Token {
        let end = run_end(self.input, self.pos, b"\n");
        self.take(end, State::Init, Token::Comment)
    }

    fn init(&mut self) -> Token {
        if let Some(token) = self.linebreak() {
            return token;
        }
        match self.input.get(self.pos) {
            None => Token::Eof,
            Some(b'{') => self.take(self.pos + 1, State::Labels, Token::BraceOpen),
            Some(b'#') => {
                if !matches!(self.input.get(self.pos + 1), Some(b' ' | b'\t')) {
                    return self.comment();
                }
                self.pos += 1;
                self.skip_blanks();
                self.metadata_word()
            }
            _ => match name_end(self.input, self.pos, NAME_START | COLON) {
                end if end > self.pos => self.take(end, State::Value, Token::MetricName),
                _ => Token::Invalid,
            },
        }
    }

    fn metadata_word(&mut self) -> Token {
        let rest = &self.input[self.pos..];
        let token = match rest.get(..4) {
            Some(b"HELP") => Token::Help,
            Some(b"TYPE") => Token::Type,
            _ => return self.comment(),
        };
        if !matches!(rest.get(4), Some(b' ' | b'\t')) {
            return self.comment();
        }
        self.take(self.pos + 4, State::MetadataName, token)
    }

    fn metadata_name(&mut self) -> Token {
        let end = quoted_end(self.input, self.pos, true)
            .unwrap_or_else(|| name_end(self.input, self.pos, NAME_START | COLON));
        if end == self.pos {
            return Token::Invalid;
        }
        self.take(end, State::MetadataText, Token::MetricName)
    }

    fn labels(&mut self) -> Token {
        match self.input.get(self.pos) {
            Some(b'}') => self.take(self.pos + 1, State::Value, Token::BraceClose),
            Some(b'=') => self.take(self.pos + 1, State::LabelValue, Token::Equal),
            Some(b',') => self.take(self.pos + 1, State::Labels, Token::Comma),
            Some(b'"') => match quoted_end(self.input, self.pos, true) {
                Some(end) => self.take(end, State::Labels, Token::QuotedString),
                None => Token::Invalid,
            },
            byte if is(byte, NAME_START) => {
                let end = name_end(self.input, self.pos, NAME_START);
                self.take(end, State::Labels, Token::LabelName)
            }
            None => Token::Eof,
            Some(_) => Token::Invalid,
        }
    }
}

impl Lexer for TextLexer<'_> {
    fn lex(&mut self) -> Token {
        if self.state == State::MetadataText {
            self.start = self.pos;
            let end = run_end(self.input, self.pos, b"\n");
            return self.take(end, State::Init, Token::Text);
        }
        self.skip_blanks();
        match self.state {
            State::Init | State::MetadataText => self.init(),
            State::MetadataName => self.metadata_name(),
            State::Labels => self.labels(),
            State::LabelValue => match quoted_end(self.input, self.pos, true) {
                Some(end) => self.take(end, State::Labels, Token::LabelValue),
                None => Token::Invalid,
            },
            State::Value => {
                if self.input.get(self.pos) == Some(&b'{') {
                    return self.take(self.pos + 1, State::Labels, Token::BraceOpen);
                }
                match run_end(self.input, self.pos, b"{ \t\n") {
                    end if end > self.pos => self.take(end, State::Timestamp, Token::Value),
                    _ => Token::Invalid,
                }
            }
            State::Timestamp => {
                if let Some(token) = self.linebreak() {
                    return token;
                }
                let mut end = self.pos;
                while is(self.input.get(end), DIGIT) {
                    end += 1;
                }
                if end == self.pos {
                    return Token::Invalid;
                }
                self.take(end, State::Timestamp, Token::Timestamp)
            }
        }
    }

    fn input(&self) -> &[u8] {
        self.input
    }

    fn start(&self) -> usize {
        self.start
    }

    fn pos(&self) -> usize {
        self.pos
    }
}

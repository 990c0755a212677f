//! Recursive descent for what is bracketed, precedence climbing for operators.

mod aggregate;
mod check;
mod duration;
pub(crate) mod literal;
mod selector;

use crate::ast::{At, BinaryExpr, BinaryOp, Call, Cardinality, Expr, ExprKind, Span, VectorMatching};
use crate::functions::Function;
use crate::lexer::{Item, Lexed, Token, lex};
use gnomon_model::Matcher;
use std::collections::HashSet;

/// What of the language beyond its stable part is taken; by default nothing, as in Prometheus without
/// `--enable-feature`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParseOptions {
    pub experimental_functions: bool,
    /// `anchored` and `smoothed`.
    pub extended_range_selectors: bool,
    /// `fill`, `fill_left`, `fill_right`.
    pub fill_modifiers: bool,
}

impl ParseOptions {
    /// The whole language.
    #[must_use]
    pub const fn everything() -> Self {
        Self {
            experimental_functions: true,
            extended_range_selectors: true,
            fill_modifiers: true,
        }
    }
}

/// A query that is not PromQL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{position}: parse error: {message}")]
pub struct ParseError {
    /// `line:column`, both from 1.
    pub position: String,
    pub span: Span,
    pub message: String,
}

/// Brackets and signs within each other that are refused beyond.
const MAX_DEPTH: usize = 200;
/// Height of the tree, which long chains of operators make too, that is refused beyond: whatever walks a tree does so by
/// recursion, on stacks as small as 2 MiB.
const MAX_HEIGHT: usize = 500;
/// What all regular expressions of a query may occupy, compiled. Prometheus lets each have 128 MiB.
pub const MAX_PATTERN_BYTES: usize = 32 << 20;

/// Parses and type-checks an expression.
///
/// # Errors
/// The first thing that is wrong, in the words of Prometheus.
pub fn parse(query: &str, options: &ParseOptions) -> Result<Expr, ParseError> {
    let lexed = lex(query);
    let mut parser = Parser::new(query, &lexed, *options);
    let expr = parser.whole_expression();
    let first = |errors: Vec<(Span, String)>| errors.into_iter().next();
    match expr {
        Ok(expr) if parser.errors.is_empty() => {
            let mut errors = Vec::new();
            check::check(query, &expr, &mut errors);
            match first(errors) {
                None => Ok(expr),
                Some((span, message)) => Err(error(query, span, message)),
            }
        }
        _ => {
            let (span, message) = first(parser.errors).unwrap_or_default();
            Err(error(query, span, message))
        }
    }
}

/// Parses a series selector alone, as `match[]` has it.
///
/// # Errors
/// The first thing that is wrong, in the words of Prometheus.
pub fn parse_selector(query: &str) -> Result<Vec<Matcher>, ParseError> {
    let lexed = lex(query);
    let mut parser = Parser::new(query, &lexed, ParseOptions::default());
    let mut parsed = parser.metric_selector();
    if parsed.is_ok() && parser.peek().token != Token::Eof {
        parsed = parser.unexpected("", "");
    }
    match (parsed, parser.errors.into_iter().next()) {
        (
            Ok(Expr {
                kind: ExprKind::Vector(selector),
                ..
            }),
            None,
        ) => Ok(selector.matchers),
        (_, Some((span, message))) => Err(error(query, span, message)),
        (_, None) => Err(error(query, Span::default(), "expected a series selector".to_owned())),
    }
}

fn error(query: &str, span: Span, message: String) -> ParseError {
    ParseError {
        position: span.line_column(query),
        span,
        message,
    }
}

/// An error has been noted; parsing cannot go on.
#[derive(Debug)]
struct Stop;

type Parsed<T> = Result<T, Stop>;

struct Parser<'a> {
    query: &'a str,
    lexed: &'a Lexed,
    at: usize,
    options: ParseOptions,
    errors: Vec<(Span, String)>,
    depth: usize,
    /// Of the expression parsed last.
    height: usize,
    /// Of the duration being parsed.
    duration_operators: usize,
    /// Regular expressions so far; the same one is compiled once,
    patterns: HashSet<String>,
    /// and occupies so much of all.
    pattern_bytes: usize,
    /// How many aggregations are open: errors in one say so.
    aggregations: usize,
    /// End of the last token that can end an expression.
    last_closing: usize,
}

impl<'a> Parser<'a> {
    fn new(query: &'a str, lexed: &'a Lexed, options: ParseOptions) -> Self {
        Self {
            query,
            lexed,
            at: 0,
            options,
            errors: Vec::new(),
            depth: 0,
            height: 0,
            duration_operators: 0,
            patterns: HashSet::new(),
            pattern_bytes: 0,
            aggregations: 0,
            last_closing: 0,
        }
    }

    fn peek(&self) -> Item {
        let end = Item {
            token: Token::Eof,
            span: Span::new(self.query.len(), self.query.len()),
        };
        self.lexed.items.get(self.at).copied().unwrap_or(end)
    }

    fn peek_ahead(&self, ahead: usize) -> Token {
        self.lexed
            .items
            .get(self.at + ahead)
            .map_or(Token::Eof, |item| item.token)
    }

    fn advance(&mut self) -> Item {
        let item = self.peek();
        if !matches!(item.token, Token::Eof | Token::Error) {
            self.at += 1;
        }
        if matches!(
            item.token,
            Token::RightBrace | Token::RightParen | Token::RightBracket | Token::Duration | Token::Number
        ) {
            self.last_closing = item.span.end;
        }
        item
    }

    fn text(&self, item: Item) -> &'a str {
        self.query.get(item.span.start..item.span.end).unwrap_or("")
    }

    /// The text of a word in lower case; empty for other tokens.
    fn word(&self, item: Item) -> String {
        match item.token {
            Token::Keyword | Token::Aggregator | Token::Operator => self.text(item).to_ascii_lowercase(),
            _ => String::new(),
        }
    }

    fn at_keyword(&self, word: &str) -> bool {
        self.peek().token == Token::Keyword && self.word(self.peek()) == word
    }

    fn at_operator(&self, sign: &str) -> bool {
        self.peek().token == Token::Operator && self.word(self.peek()) == sign
    }

    fn eat(&mut self, token: Token) -> bool {
        let there = self.peek().token == token;
        if there {
            self.advance();
        }
        there
    }

    fn note(&mut self, span: Span, message: impl Into<String>) {
        self.errors.push((span, message.into()));
    }

    fn describe(&self, item: Item) -> String {
        let text = self.text(item);
        let shortened = |text: &str| {
            if text.chars().count() > 10 {
                format!("{:?}...", text.chars().take(10).collect::<String>())
            } else {
                format!("{text:?}")
            }
        };
        match item.token {
            Token::Eof => "end of input".to_owned(),
            Token::Error => String::new(),
            Token::Identifier => format!("identifier {text:?}"),
            Token::MetricIdentifier => format!("metric identifier {text:?}"),
            Token::Number => format!("number {}", shortened(text)),
            Token::Duration => format!("duration {}", shortened(text)),
            Token::String => format!("string {}", shortened(text)),
            Token::Keyword => format!("<{}>", text),
            Token::Aggregator => format!("<aggr:{text}>"),
            Token::Operator => format!("<op:{text}>"),
            _ => format!("{text:?}"),
        }
    }

    /// Notes that the next token does not belong here.
    fn unexpected<T>(&mut self, context: &str, expected: &str) -> Parsed<T> {
        let item = self.peek();
        if item.token == Token::Error {
            self.note(item.span, self.lexed.error.clone());
            return Err(Stop);
        }
        let context = if context.is_empty() && self.aggregations > 0 {
            "aggregation"
        } else {
            context
        };
        let mut message = format!("unexpected {}", self.describe(item));
        if !context.is_empty() {
            message.push_str(" in ");
            message.push_str(context);
        }
        if !expected.is_empty() {
            message.push_str(", expected ");
            message.push_str(expected);
        }
        self.note(item.span, message);
        Err(Stop)
    }

    fn whole_expression(&mut self) -> Parsed<Expr> {
        if self.peek().token == Token::Eof {
            self.note(Span::default(), "no expression found in input");
            return Err(Stop);
        }
        let expr = self.expression(0)?;
        if self.peek().token == Token::Eof {
            Ok(expr)
        } else {
            self.unexpected("", "")
        }
    }

    /// An expression of operators that bind tighter than `floor`.
    fn expression(&mut self, floor: u8) -> Parsed<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let span = self.peek().span;
            self.note(span, format!("expression is nested more than {MAX_DEPTH} levels deep"));
            return Err(Stop);
        }
        let expr = self.operators(floor);
        self.depth -= 1;
        expr
    }

    fn operators(&mut self, floor: u8) -> Parsed<Expr> {
        let mut lhs = self.operand()?;
        let mut height = self.height;
        while let Some(op) = self.binary_operator() {
            if op.precedence() <= floor {
                break;
            }
            self.advance();
            let (return_bool, mut matching) = self.modifiers()?;
            if op.is_set() && matching.card == Cardinality::OneToOne {
                matching.card = Cardinality::ManyToMany;
            }
            // `^` is right-associative.
            let below = if op == BinaryOp::Pow {
                op.precedence() - 1
            } else {
                op.precedence()
            };
            let rhs = self.expression(below)?;
            height = self.grown(height)?;
            let span = Span::new(lhs.span.start, rhs.span.end);
            if !self.options.fill_modifiers && (matching.fill_left.is_some() || matching.fill_right.is_some()) {
                self.note(span, "binop fill modifiers are experimental and not enabled");
            }
            lhs = Expr {
                kind: ExprKind::Binary(Box::new(BinaryExpr {
                    op,
                    lhs,
                    rhs,
                    return_bool,
                    matching,
                })),
                span,
            };
        }
        self.height = height;
        Ok(lhs)
    }

    /// The height of a node over the expression parsed last and another one of height `other`.
    fn grown(&mut self, other: usize) -> Parsed<usize> {
        let height = self.height.max(other) + 1;
        if height > MAX_HEIGHT {
            let span = self.peek().span;
            self.note(
                span,
                format!("expression has more than {MAX_HEIGHT} operators in a row or within each other"),
            );
            return Err(Stop);
        }
        Ok(height)
    }

    fn binary_operator(&self) -> Option<BinaryOp> {
        let item = self.peek();
        if item.token != Token::Operator {
            return None;
        }
        Some(match self.word(item).as_str() {
            "+" => BinaryOp::Add,
            "-" => BinaryOp::Sub,
            "*" => BinaryOp::Mul,
            "/" => BinaryOp::Div,
            "%" => BinaryOp::Mod,
            "^" => BinaryOp::Pow,
            "atan2" => BinaryOp::Atan2,
            "==" => BinaryOp::Eq,
            "!=" => BinaryOp::Ne,
            ">" => BinaryOp::Gt,
            "<" => BinaryOp::Lt,
            ">=" => BinaryOp::Ge,
            "<=" => BinaryOp::Le,
            "</" => BinaryOp::TrimUpper,
            ">/" => BinaryOp::TrimLower,
            "and" => BinaryOp::And,
            "or" => BinaryOp::Or,
            "unless" => BinaryOp::Unless,
            _ => return None,
        })
    }

    /// `bool`, `on`, `ignoring`, `group_left`, `group_right`, `fill`.
    fn modifiers(&mut self) -> Parsed<(bool, VectorMatching)> {
        let mut matching = VectorMatching::default();
        let return_bool = self.at_keyword("bool");
        if return_bool {
            self.advance();
        }
        let on = self.at_keyword("on");
        if on || self.at_keyword("ignoring") {
            self.advance();
            matching.on = on;
            matching.labels = self.grouping()?;
            let left = self.at_keyword("group_left");
            if left || self.at_keyword("group_right") {
                self.advance();
                matching.card = if left {
                    Cardinality::ManyToOne
                } else {
                    Cardinality::OneToMany
                };
                if self.peek().token == Token::LeftParen {
                    matching.include = self.grouping()?;
                }
            }
        }
        self.fill(&mut matching)?;
        Ok((return_bool, matching))
    }

    fn fill(&mut self, matching: &mut VectorMatching) -> Parsed<()> {
        for _ in 0..2 {
            let word = self.word(self.peek());
            if !matches!(word.as_str(), "fill" | "fill_left" | "fill_right") || self.peek_ahead(1) != Token::LeftParen {
                return Ok(());
            }
            self.advance();
            self.advance();
            let value = self.signed_number("fill", "number")?;
            if !self.eat(Token::RightParen) {
                return self.unexpected("fill modifier", "\")\"");
            }
            matching.fill_both = word == "fill";
            if word != "fill_right" {
                matching.fill_left = Some(value);
            }
            if word != "fill_left" {
                matching.fill_right = Some(value);
            }
        }
        Ok(())
    }

    fn operand(&mut self) -> Parsed<Expr> {
        let item = self.peek();
        if item.token == Token::Operator && matches!(self.text(item), "+" | "-") {
            return self.unary(item);
        }
        let expr = self.primary()?;
        self.postfix(expr)
    }

    fn unary(&mut self, sign: Item) -> Parsed<Expr> {
        self.advance();
        let negative = self.text(sign) == "-";
        let mut operand = self.expression(BinaryOp::Mul.precedence())?;
        self.height = self.grown(0)?;
        let span = Span::new(sign.span.start, operand.span.end);
        if let ExprKind::Number { value, .. } = &mut operand.kind {
            if negative {
                *value = -*value;
            }
            operand.span = span;
            return Ok(operand);
        }
        Ok(Expr {
            kind: ExprKind::Unary {
                negative,
                expr: Box::new(operand),
            },
            span,
        })
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let item = self.peek();
        self.height = 1;
        match item.token {
            Token::Number | Token::Duration => {
                self.advance();
                let value = self.number(item);
                let duration = item.token == Token::Duration;
                Ok(Expr {
                    kind: ExprKind::Number { value, duration },
                    span: item.span,
                })
            }
            Token::String => {
                self.advance();
                let kind = match String::from_utf8(self.unquoted_bytes(item)) {
                    Ok(text) => ExprKind::String(text),
                    Err(error) => ExprKind::Bytes(error.into_bytes()),
                };
                Ok(Expr { kind, span: item.span })
            }
            Token::LeftParen => {
                self.advance();
                let inner = self.expression(0)?;
                self.height = self.grown(0)?;
                let close = self.peek();
                if !self.eat(Token::RightParen) {
                    return self.unexpected("", "");
                }
                let span = Span::new(item.span.start, close.span.end);
                Ok(Expr {
                    kind: ExprKind::Paren(Box::new(inner)),
                    span,
                })
            }
            Token::Aggregator if self.aggregation_follows() => self.aggregation(),
            Token::Identifier if self.peek_ahead(1) == Token::LeftParen => self.call(),
            Token::Keyword if self.peek_ahead(1) == Token::LeftParen && Function::named(&self.word(item)).is_some() => {
                self.call()
            }
            _ => self.metric_selector(),
        }
    }

    fn call(&mut self) -> Parsed<Expr> {
        let name = self.advance();
        let text = if name.token == Token::Keyword {
            self.word(name)
        } else {
            self.text(name).to_owned()
        };
        let args = self.arguments()?;
        let span = Span::new(name.span.start, self.last_closing);
        let Some(func) = Function::named(&text) else {
            self.note(name.span, format!("unknown function with name {text:?}"));
            return Err(Stop);
        };
        if func.experimental && !self.options.experimental_functions {
            self.note(name.span, format!("function {text:?} is not enabled"));
        }
        Ok(Expr {
            kind: ExprKind::Call(Call { func, args }),
            span,
        })
    }

    /// `(a, b)`; the caller has seen the parenthesis.
    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        self.advance();
        let mut args = Vec::new();
        let mut height = 1;
        if self.eat(Token::RightParen) {
            return Ok(args);
        }
        loop {
            args.push(self.expression(0)?);
            height = self.grown(height - 1)?;
            self.height = height;
            let item = self.peek();
            if self.eat(Token::RightParen) {
                return Ok(args);
            }
            if !self.eat(Token::Comma) {
                return self.unexpected("", "");
            }
            if self.peek().token == Token::RightParen {
                self.note(item.span, "trailing commas not allowed in function call args");
                return Err(Stop);
            }
        }
    }

    /// `@ 10`, `@ start()`.
    fn at_modifier(&mut self, span: Span) -> Parsed<At> {
        self.advance();
        for (word, at) in [("start", At::Start), ("end", At::End)] {
            if self.at_keyword(word) {
                self.advance();
                if !self.eat(Token::LeftParen) || !self.eat(Token::RightParen) {
                    return self.unexpected("@", "timestamp");
                }
                return Ok(at);
            }
        }
        let seconds = self.signed_number("@", "timestamp")?;
        if !seconds.is_finite() || seconds >= i64::MAX as f64 || seconds <= i64::MIN as f64 {
            let shown = gnomon_model::gofloat::fixed(seconds, 6);
            self.note(span, format!("timestamp out of bounds for @ modifier: {shown}"));
        }
        Ok(At::Millis((seconds * 1000.0).round() as i64))
    }
}

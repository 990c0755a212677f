//! Series selectors and what may follow an operand: ranges, subqueries, `offset`, `@`.

use super::duration::Place;
use super::{MAX_PATTERN_BYTES, Parsed, Parser};
use crate::ast::{At, DurationExpr, Expr, ExprKind, MatrixSelector, Span, SubqueryExpr, VectorSelector};
use crate::lexer::{Item, Token};
use gnomon_model::size::format_size_bytes;
use gnomon_model::{METRIC_NAME, MatchOp, Matcher};

impl Parser<'_> {
    /// `name`, `name{…}` or `{…}`.
    pub(super) fn metric_selector(&mut self) -> Parsed<Expr> {
        let item = self.peek();
        let word = self.word(item);
        let is_name = match item.token {
            Token::Identifier | Token::MetricIdentifier | Token::Aggregator => true,
            Token::Keyword => !matches!(word.as_str(), "bool" | "on" | "ignoring" | "group_left" | "group_right"),
            Token::Operator => matches!(word.as_str(), "and" | "or" | "unless"),
            _ => false,
        };
        let mut name = String::new();
        if is_name {
            self.advance();
            self.text(item).clone_into(&mut name);
        } else if item.token != Token::LeftBrace {
            return self.unexpected("", "");
        }
        let mut span = item.span;
        let mut matchers = Vec::new();
        if self.peek().token == Token::LeftBrace {
            self.advance();
            matchers = self.label_matchers()?;
            span.end = self.last_closing;
        }
        if !name.is_empty() {
            matchers.push(Matcher::equal(METRIC_NAME, name.clone()));
        }
        let selector = VectorSelector {
            name,
            matchers,
            offset: None,
            at: None,
            anchored: false,
            smoothed: false,
        };
        Ok(Expr {
            kind: ExprKind::Vector(selector),
            span,
        })
    }

    /// What follows `{`, to the `}`.
    fn label_matchers(&mut self) -> Parsed<Vec<Matcher>> {
        const CONTEXT: &str = "label matching";
        let mut matchers = Vec::new();
        if self.eat(Token::RightBrace) {
            return Ok(matchers);
        }
        loop {
            if let Some(matcher) = self.label_matcher()? {
                matchers.push(matcher);
            }
            if self.eat(Token::RightBrace) {
                return Ok(matchers);
            }
            if !self.eat(Token::Comma) {
                return self.unexpected(CONTEXT, "\",\" or \"}\"");
            }
            if self.eat(Token::RightBrace) {
                return Ok(matchers);
            }
        }
    }

    fn match_op(&mut self) -> Option<MatchOp> {
        let item = self.peek();
        let op = match (item.token, self.text(item)) {
            (Token::Assign, _) => MatchOp::Equal,
            (Token::Operator, "!=") => MatchOp::NotEqual,
            (Token::Operator, "=~") => MatchOp::Regex,
            (Token::Operator, "!~") => MatchOp::NotRegex,
            _ => return None,
        };
        self.advance();
        Some(op)
    }

    fn label_matcher(&mut self) -> Parsed<Option<Matcher>> {
        const CONTEXT: &str = "label matching";
        let label = self.peek();
        let name = match label.token {
            Token::Identifier => {
                self.advance();
                self.text(label).to_owned()
            }
            Token::String => {
                self.advance();
                let name = self.unquoted(label);
                if matches!(self.peek().token, Token::Comma | Token::RightBrace) {
                    return Ok(Some(Matcher::equal(METRIC_NAME, name)));
                }
                name
            }
            _ => return self.unexpected(CONTEXT, "identifier or \"}\""),
        };
        let Some(op) = self.match_op() else {
            return self.unexpected(CONTEXT, "label matching operator");
        };
        let value = self.peek();
        if value.token != Token::String {
            return self.unexpected(CONTEXT, "string");
        }
        self.advance();
        let text = self.unquoted(value);
        // Only the first error is told: after it nothing needs to be compiled.
        if !self.errors.is_empty() {
            return Ok(None);
        }
        let message = match Matcher::new(name, op, text.clone()) {
            Ok(matcher) => {
                let bytes = matcher.pattern_bytes();
                if bytes > 0 && self.patterns.insert(text.clone()) {
                    self.pattern_bytes += bytes;
                }
                if self.pattern_bytes <= MAX_PATTERN_BYTES {
                    return Ok(Some(matcher));
                }
                let limit = format_size_bytes(MAX_PATTERN_BYTES as u64);
                format!("regular expressions too large: together they take more than {limit}, compiled")
            }
            Err(e) => e.to_string(),
        };
        self.note(Span::new(label.span.start, value.span.end), message);
        Ok(None)
    }

    /// Ranges, subqueries, offsets and so on after an operand.
    pub(super) fn postfix(&mut self, mut expr: Expr) -> Parsed<Expr> {
        let mut depth = 0;
        loop {
            let item = self.peek();
            let word = self.word(item);
            expr = match (item.token, word.as_str()) {
                (Token::LeftBracket, _) => self.range(expr)?,
                (Token::Keyword, "offset") => self.offset(expr)?,
                (Token::Keyword, "anchored" | "smoothed") => self.extended(expr, &word),
                (Token::Operator, "@") => self.at(expr)?,
                _ => return Ok(expr),
            };
            depth += 1;
            if depth > super::MAX_DEPTH {
                self.note(
                    item.span,
                    format!("expression is nested more than {} levels deep", super::MAX_DEPTH),
                );
                return Err(super::Stop);
            }
        }
    }

    fn range(&mut self, expr: Expr) -> Parsed<Expr> {
        let open = self.advance();
        let saved = std::mem::take(&mut self.aggregations);
        let range = self.positive_duration(Place::Range)?;
        if self.eat(Token::Colon) {
            let step = match self.peek().token {
                Token::RightBracket => None,
                _ => Some(self.positive_duration(Place::Step)?),
            };
            if !self.eat(Token::RightBracket) {
                return self.unexpected("subquery selector", "\"]\"");
            }
            self.aggregations = saved;
            let span = Span::new(expr.span.start, self.last_closing);
            self.height = self.grown(0)?;
            let subquery = SubqueryExpr {
                expr,
                range,
                step,
                offset: None,
                at: None,
            };
            return Ok(Expr {
                kind: ExprKind::Subquery(Box::new(subquery)),
                span,
            });
        }
        let close = self.peek();
        if !self.eat(Token::RightBracket) {
            return self.unexpected("subquery or range", "\":\" or \"]\"");
        }
        self.aggregations = saved;
        Ok(self.matrix(expr, range, open, close))
    }

    fn matrix(&mut self, expr: Expr, range: DurationExpr, open: Item, close: Item) -> Expr {
        let brackets = Span::new(open.span.start, close.span.end);
        let span = Span::new(expr.span.start, close.span.end);
        let selector_span = expr.span;
        let ExprKind::Vector(selector) = expr.kind else {
            self.note(brackets, "ranges only allowed for vector selectors");
            return expr;
        };
        if selector.offset.is_some() {
            self.note(brackets, "no offset modifiers allowed before range");
        } else if selector.at.is_some() {
            self.note(brackets, "no @ modifiers allowed before range");
        }
        Expr {
            kind: ExprKind::Matrix(MatrixSelector {
                selector,
                selector_span,
                range,
            }),
            span,
        }
    }

    fn offset(&mut self, mut expr: Expr) -> Parsed<Expr> {
        self.advance();
        let duration = self.offset_duration()?;
        let span = expr.span;
        let slot = match &mut expr.kind {
            ExprKind::Vector(selector) => &mut selector.offset,
            ExprKind::Matrix(matrix) => &mut matrix.selector.offset,
            ExprKind::Subquery(subquery) => &mut subquery.offset,
            _ => {
                self.note(
                    span,
                    "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
                );
                return Ok(expr);
            }
        };
        if slot.is_some() {
            self.note(span, "offset may not be set multiple times");
        } else {
            *slot = Some(duration);
        }
        expr.span.end = self.last_closing;
        Ok(expr)
    }

    fn at(&mut self, mut expr: Expr) -> Parsed<Expr> {
        let span = expr.span;
        let at = self.at_modifier(span)?;
        let slot: &mut Option<At> = match &mut expr.kind {
            ExprKind::Vector(selector) => &mut selector.at,
            ExprKind::Matrix(matrix) => &mut matrix.selector.at,
            ExprKind::Subquery(subquery) => &mut subquery.at,
            _ => {
                self.note(
                    span,
                    "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery",
                );
                return Ok(expr);
            }
        };
        if slot.is_some() {
            self.note(span, "@ <timestamp> may not be set multiple times");
        } else {
            *slot = Some(at);
        }
        expr.span.end = self.last_closing;
        Ok(expr)
    }

    fn extended(&mut self, mut expr: Expr, word: &str) -> Expr {
        let item = self.advance();
        let span = expr.span;
        if !self.options.extended_range_selectors {
            self.note(span, format!("{word} modifier is experimental and not enabled"));
            return expr;
        }
        let selector = match &mut expr.kind {
            ExprKind::Vector(selector) => selector,
            ExprKind::Matrix(matrix) => &mut matrix.selector,
            ExprKind::Subquery(_) => {
                self.note(span, format!("{word} modifier is not supported for subqueries"));
                return expr;
            }
            _ => {
                self.note(span, format!("{word} modifier not implemented"));
                return expr;
            }
        };
        if word == "anchored" {
            selector.anchored = true;
        } else {
            selector.smoothed = true;
        }
        if selector.anchored && selector.smoothed {
            self.note(span, "anchored and smoothed modifiers cannot be used together");
        }
        expr.span.end = item.span.end;
        expr
    }
}

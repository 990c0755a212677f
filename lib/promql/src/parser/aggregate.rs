//! `sum by (job) (…)`.

use super::{Parsed, Parser, Stop};
use crate::ast::{AggregateExpr, AggregateOp, Expr, ExprKind, Span};
use crate::lexer::Token;
use gnomon_model::labels::is_legacy_label_name;

fn operation(word: &str) -> Option<AggregateOp> {
    Some(match word {
        "sum" => AggregateOp::Sum,
        "avg" => AggregateOp::Avg,
        "count" => AggregateOp::Count,
        "min" => AggregateOp::Min,
        "max" => AggregateOp::Max,
        "group" => AggregateOp::Group,
        "stddev" => AggregateOp::Stddev,
        "stdvar" => AggregateOp::Stdvar,
        "topk" => AggregateOp::TopK,
        "bottomk" => AggregateOp::BottomK,
        "quantile" => AggregateOp::Quantile,
        "count_values" => AggregateOp::CountValues,
        "limitk" => AggregateOp::LimitK,
        "limit_ratio" => AggregateOp::LimitRatio,
        _ => return None,
    })
}

impl Parser<'_> {
    /// Whether the aggregator's name is one here, and not the name of a metric.
    pub(super) fn aggregation_follows(&self) -> bool {
        match self.peek_ahead(1) {
            Token::LeftParen => true,
            Token::Keyword => {
                let next = self.lexed.items.get(self.at + 1).map(|item| self.word(*item));
                next.is_some_and(|word| word == "by" || word == "without")
            }
            _ => false,
        }
    }

    fn by_or_without(&mut self) -> Parsed<Option<(Vec<String>, bool)>> {
        let without = self.at_keyword("without");
        if !without && !self.at_keyword("by") {
            return Ok(None);
        }
        self.advance();
        Ok(Some((self.grouping()?, without)))
    }

    pub(super) fn aggregation(&mut self) -> Parsed<Expr> {
        let name = self.advance();
        let Some(op) = operation(&self.word(name)) else {
            return self.unexpected("", "");
        };
        self.aggregations += 1;
        let mut modifier = self.by_or_without()?;
        if self.peek().token != Token::LeftParen {
            return self.unexpected("", "");
        }
        let args = self.arguments()?;
        self.aggregations -= 1;
        if modifier.is_none() {
            modifier = self.by_or_without()?;
        }
        let span = Span::new(name.span.start, self.last_closing);
        let (grouping, without) = modifier.unwrap_or_default();
        self.assemble(op, args, grouping, without, span)
    }

    fn assemble(
        &mut self,
        op: AggregateOp,
        mut args: Vec<Expr>,
        grouping: Vec<String>,
        without: bool,
        span: Span,
    ) -> Parsed<Expr> {
        if args.is_empty() {
            self.note(span, "no arguments for aggregate expression provided");
            return Err(Stop);
        }
        if op.experimental() && !self.options.experimental_functions {
            let name = op.name();
            self.note(
                span,
                format!(
                    "{name}() is experimental and must be enabled with --enable-feature=promql-experimental-functions"
                ),
            );
            return Err(Stop);
        }
        let wanted = if op.has_param() { 2 } else { 1 };
        let got = args.len();
        let expr = args.pop();
        let (Some(expr), true) = (expr, got == wanted) else {
            self.note(
                span,
                format!("wrong number of arguments for aggregate expression provided, expected {wanted}, got {got}"),
            );
            return Err(Stop);
        };
        let param = args.pop();
        let aggregate = AggregateExpr {
            op,
            expr,
            param,
            grouping,
            without,
        };
        Ok(Expr {
            kind: ExprKind::Aggregate(Box::new(aggregate)),
            span,
        })
    }

    /// `(a, b)`.
    pub(super) fn grouping(&mut self) -> Parsed<Vec<String>> {
        const CONTEXT: &str = "grouping opts";
        if !self.eat(Token::LeftParen) {
            return self.unexpected(CONTEXT, "\"(\"");
        }
        let mut labels = Vec::new();
        loop {
            let item = self.peek();
            match item.token {
                Token::RightParen if labels.is_empty() || self.after_comma() => {
                    self.advance();
                    return Ok(labels);
                }
                Token::Identifier | Token::Keyword | Token::Aggregator | Token::Operator | Token::Number
                    if is_legacy_label_name(self.text(item)) =>
                {
                    labels.push(self.text(item).to_owned());
                }
                Token::String => {
                    let name = self.unquoted(item);
                    if name.is_empty() {
                        return self.unexpected(CONTEXT, "label");
                    }
                    labels.push(name);
                }
                _ => return self.unexpected(CONTEXT, "label"),
            }
            self.advance();
            if self.eat(Token::RightParen) {
                return Ok(labels);
            }
            if !self.eat(Token::Comma) {
                return self.unexpected(CONTEXT, "\",\" or \")\"");
            }
        }
    }

    fn after_comma(&self) -> bool {
        self.at > 0
            && self
                .lexed
                .items
                .get(self.at - 1)
                .is_some_and(|item| item.token == Token::Comma)
    }
}

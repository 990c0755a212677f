//! The syntax tree, with the place of every node in the query's text.

use crate::functions::Function;
use gnomon_model::Matcher;

/// A range of byte offsets in the query's text, half-open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    #[must_use]
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// `line:column` of the start, both from 1, the column in bytes.
    #[must_use]
    pub fn line_column(self, query: &str) -> String {
        if query.is_empty() {
            return "unknown position".to_owned();
        }
        let Some(before) = query.as_bytes().get(..self.start) else {
            return "invalid position".to_owned();
        };
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
        format!("{line}:{column}")
    }
}

/// The type of an expression's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    Scalar,
    Vector,
    Matrix,
    String,
}

impl ValueType {
    /// The name that error messages use.
    #[must_use]
    pub const fn documented(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
            Self::String => "string",
        }
    }

    /// The name that the HTTP API uses.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "vector",
            Self::Matrix => "matrix",
            Self::String => "string",
        }
    }
}

/// A node of the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    pub kind: ExprKind,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    Number {
        value: f64,
        /// Written as a duration (`5m`), printed as one.
        duration: bool,
    },
    String(String),
    /// A string whose bytes are not UTF-8, which escapes (`"\xff"`) can write.
    Bytes(Vec<u8>),
    Paren(Box<Expr>),
    Unary {
        negative: bool,
        expr: Box<Expr>,
    },
    Binary(Box<BinaryExpr>),
    Aggregate(Box<AggregateExpr>),
    Call(Call),
    Vector(VectorSelector),
    Matrix(MatrixSelector),
    Subquery(Box<SubqueryExpr>),
}

/// Where `@` pins the evaluation time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Milliseconds since the Unix epoch.
    Millis(i64),
    Start,
    End,
}

/// A duration as it was written; the value may depend on the query's step and range.
#[derive(Clone, Debug, PartialEq)]
pub enum DurationExpr {
    Seconds {
        value: f64,
        /// Written as a duration (`5m`), printed as one.
        duration: bool,
        span: Span,
    },
    /// `step()`.
    Step(Span),
    /// `range()`.
    Range(Span),
    /// Around a number alone only where it is the base of a power, and negative.
    Paren(Box<DurationExpr>),
    Unary {
        negative: bool,
        /// The place of the sign.
        start: usize,
        expr: Box<DurationExpr>,
    },
    Binary {
        op: BinaryOp,
        lhs: Box<DurationExpr>,
        rhs: Box<DurationExpr>,
    },
    /// `min_of(a, b)`.
    Min(Box<DurationExpr>, Box<DurationExpr>),
    /// `max_of(a, b)`.
    Max(Box<DurationExpr>, Box<DurationExpr>),
}

impl DurationExpr {
    /// Where it is said to stand in errors, as in Prometheus: without parentheses around it, and `min_of` and `max_of` from
    /// their first operand to the end of the second.
    pub(crate) fn span(&self) -> Span {
        match self {
            Self::Seconds { span, .. } | Self::Step(span) | Self::Range(span) => *span,
            Self::Paren(inner) => inner.span(),
            Self::Unary { start, expr, .. } => Span::new(*start, expr.span().end),
            Self::Binary {
                lhs: first, rhs: last, ..
            }
            | Self::Min(first, last)
            | Self::Max(first, last) => Span::new(first.span().start, last.span().end),
        }
    }
}

/// `name{label="value"} offset 5m @ 10`.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSelector {
    /// The name that stood outside of the braces; empty if none. It is one of the matchers too.
    pub name: String,
    pub matchers: Vec<Matcher>,
    pub offset: Option<DurationExpr>,
    pub at: Option<At>,
    pub anchored: bool,
    pub smoothed: bool,
}

/// `selector[5m]`.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixSelector {
    pub selector: VectorSelector,
    /// The place of the selector without its range.
    pub selector_span: Span,
    pub range: DurationExpr,
}

/// `expr[1h:5m]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SubqueryExpr {
    pub expr: Expr,
    pub range: DurationExpr,
    /// None is the default evaluation interval.
    pub step: Option<DurationExpr>,
    pub offset: Option<DurationExpr>,
    pub at: Option<At>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub func: &'static Function,
    pub args: Vec<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Eq,
    Ne,
    Gt,
    Lt,
    Ge,
    Le,
    /// `</`: keeps the observations of a histogram below a value.
    TrimUpper,
    /// `>/`: keeps the observations of a histogram above a value.
    TrimLower,
    And,
    Or,
    Unless,
}

impl BinaryOp {
    pub(crate) const ALL: [Self; 18] = [
        Self::Add,
        Self::Sub,
        Self::Mul,
        Self::Div,
        Self::Mod,
        Self::Pow,
        Self::Atan2,
        Self::Eq,
        Self::Ne,
        Self::Gt,
        Self::Lt,
        Self::Ge,
        Self::Le,
        Self::TrimUpper,
        Self::TrimLower,
        Self::And,
        Self::Or,
        Self::Unless,
    ];

    /// The operator that is written so.
    #[must_use]
    pub fn named(symbol: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.symbol() == symbol)
    }

    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
            Self::Atan2 => "atan2",
            Self::Eq => "==",
            Self::Ne => "!=",
            Self::Gt => ">",
            Self::Lt => "<",
            Self::Ge => ">=",
            Self::Le => "<=",
            Self::TrimUpper => "</",
            Self::TrimLower => ">/",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
        }
    }

    #[must_use]
    pub const fn is_comparison(self) -> bool {
        matches!(self, Self::Eq | Self::Ne | Self::Gt | Self::Lt | Self::Ge | Self::Le)
    }

    #[must_use]
    pub const fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }

    /// Binding power; a higher one binds tighter.
    #[must_use]
    pub const fn precedence(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And | Self::Unless => 2,
            Self::Eq | Self::Ne | Self::Gt | Self::Lt | Self::Ge | Self::Le | Self::TrimUpper | Self::TrimLower => 3,
            Self::Add | Self::Sub => 4,
            Self::Mul | Self::Div | Self::Mod | Self::Atan2 => 5,
            Self::Pow => 6,
        }
    }
}

/// How many elements of one side may match one of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cardinality {
    #[default]
    OneToOne,
    /// `group_left`.
    ManyToOne,
    /// `group_right`.
    OneToMany,
    /// Set operators.
    ManyToMany,
}

/// `on (…)`, `ignoring (…)`, `group_left (…)`, `fill (…)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VectorMatching {
    pub card: Cardinality,
    pub labels: Vec<String>,
    /// `on` rather than `ignoring`.
    pub on: bool,
    /// Labels that `group_left`, `group_right` take from the one side.
    pub include: Vec<String>,
    /// What stands in for a missing element of the left side.
    pub fill_left: Option<f64>,
    /// What stands in for a missing element of the right side.
    pub fill_right: Option<f64>,
    /// Both are written as one, `fill (…)`.
    pub fill_both: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BinaryExpr {
    pub op: BinaryOp,
    pub lhs: Expr,
    pub rhs: Expr,
    pub return_bool: bool,
    /// Meaningful between two vectors only.
    pub matching: VectorMatching,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AggregateOp {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    TopK,
    BottomK,
    Quantile,
    CountValues,
    LimitK,
    LimitRatio,
}

impl AggregateOp {
    pub(crate) const ALL: [Self; 14] = [
        Self::Sum,
        Self::Avg,
        Self::Count,
        Self::Min,
        Self::Max,
        Self::Group,
        Self::Stddev,
        Self::Stdvar,
        Self::TopK,
        Self::BottomK,
        Self::Quantile,
        Self::CountValues,
        Self::LimitK,
        Self::LimitRatio,
    ];

    /// The aggregation of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.name() == name)
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Count => "count",
            Self::Min => "min",
            Self::Max => "max",
            Self::Group => "group",
            Self::Stddev => "stddev",
            Self::Stdvar => "stdvar",
            Self::TopK => "topk",
            Self::BottomK => "bottomk",
            Self::Quantile => "quantile",
            Self::CountValues => "count_values",
            Self::LimitK => "limitk",
            Self::LimitRatio => "limit_ratio",
        }
    }

    pub(crate) const fn has_param(self) -> bool {
        matches!(
            self,
            Self::TopK | Self::BottomK | Self::Quantile | Self::CountValues | Self::LimitK | Self::LimitRatio
        )
    }

    pub(crate) const fn experimental(self) -> bool {
        matches!(self, Self::LimitK | Self::LimitRatio)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct AggregateExpr {
    pub op: AggregateOp,
    pub expr: Expr,
    pub param: Option<Expr>,
    pub grouping: Vec<String>,
    pub without: bool,
}

impl Expr {
    #[must_use]
    pub fn value_type(&self) -> ValueType {
        match &self.kind {
            ExprKind::Number { .. } => ValueType::Scalar,
            ExprKind::String(_) | ExprKind::Bytes(_) => ValueType::String,
            ExprKind::Paren(inner) | ExprKind::Unary { expr: inner, .. } => inner.value_type(),
            ExprKind::Binary(binary) => match (binary.lhs.value_type(), binary.rhs.value_type()) {
                (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
                _ => ValueType::Vector,
            },
            ExprKind::Aggregate(_) | ExprKind::Vector(_) => ValueType::Vector,
            ExprKind::Call(call) => call.func.returns,
            ExprKind::Matrix(_) | ExprKind::Subquery(_) => ValueType::Matrix,
        }
    }

    /// The expression without the parentheses around it.
    #[must_use]
    pub fn without_parens(&self) -> &Self {
        let mut expr = self;
        while let ExprKind::Paren(inner) = &expr.kind {
            expr = inner;
        }
        expr
    }
}

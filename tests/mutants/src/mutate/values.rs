//! What a function could return instead of its result: values that can be made without knowing more than the type.

use quote::ToTokens;
use syn::{Block, Expr, GenericArgument, PathArguments, ReturnType, Type, parse_quote};

/// The values; `None` for one that would return nothing.
pub fn instead_of(output: &ReturnType, block: &Block) -> Vec<Option<Expr>> {
    match output {
        ReturnType::Default if block.stmts.is_empty() => Vec::new(),
        ReturnType::Default => vec![None],
        ReturnType::Type(_, of) => {
            let values = values_of(of).into_iter();
            values
                .filter(|value| !is_all_of(block, value))
                .map(Some)
                .collect()
        }
    }
}

/// Whether a function already does nothing but return this value.
fn is_all_of(block: &Block, value: &Expr) -> bool {
    let all: Block = parse_quote!({ #value });
    block.to_token_stream().to_string() == all.to_token_stream().to_string()
}

fn values_of(of: &Type) -> Vec<Expr> {
    match of {
        Type::Reference(reference) if is_named(&reference.elem, "str") => vec![parse_quote!("")],
        Type::Path(path) => path
            .path
            .segments
            .last()
            .map(values_of_segment)
            .unwrap_or_default(),
        Type::Tuple(tuple) if tuple.elems.is_empty() => vec![parse_quote!(())],
        _ => Vec::new(),
    }
}

fn values_of_segment(of: &syn::PathSegment) -> Vec<Expr> {
    let inner = first_parameter(of)
        .map(values_of)
        .unwrap_or_default()
        .into_iter();
    match of.ident.to_string().as_str() {
        "bool" => vec![parse_quote!(true), parse_quote!(false)],
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" | "i32" | "i64" => {
            vec![parse_quote!(0), parse_quote!(1)]
        }
        "String" => vec![parse_quote!(String::new())],
        "Vec" => vec![parse_quote!(Vec::new())],
        "PathBuf" | "BTreeMap" | "BTreeSet" | "HashMap" | "HashSet" => {
            vec![parse_quote!(Default::default())]
        }
        "Option" => std::iter::once(parse_quote!(None))
            .chain(inner.map(|value| parse_quote!(Some(#value))))
            .collect(),
        "Result" => inner.map(|value| parse_quote!(Ok(#value))).collect(),
        _ => Vec::new(),
    }
}

/// `T` of `Option<T>`.
fn first_parameter(of: &syn::PathSegment) -> Option<&Type> {
    let PathArguments::AngleBracketed(parameters) = &of.arguments else {
        return None;
    };
    parameters
        .args
        .iter()
        .find_map(|parameter| match parameter {
            GenericArgument::Type(of) => Some(of),
            _ => None,
        })
}

fn is_named(of: &Type, name: &str) -> bool {
    matches!(of, Type::Path(path) if path.path.is_ident(name))
}

//! What pages load: one style sheet, one script, one icon, built into the program.

use axum::{
    extract::Path,
    http::header,
    response::{IntoResponse, Response},
};

pub(crate) async fn asset(Path(name): Path<String>) -> Response {
    let (kind, text) = match name.as_str() {
        "style.css" => ("text/css; charset=utf-8", include_str!("../assets/style.css")),
        "live.js" => ("text/javascript; charset=utf-8", include_str!("../assets/live.js")),
        "icon.svg" => ("image/svg+xml", include_str!("../assets/icon.svg")),
        _ => return crate::page::not_found(),
    };
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=60")], text).into_response()
}

//! afflux-serve

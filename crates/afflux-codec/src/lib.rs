//! afflux-codec

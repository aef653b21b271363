//! afflux-record

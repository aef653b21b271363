//! afflux-server

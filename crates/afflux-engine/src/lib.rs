//! afflux-engine

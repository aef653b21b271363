//! afflux-state

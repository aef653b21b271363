//! afflux-kafka

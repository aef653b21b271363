//! afflux-sql

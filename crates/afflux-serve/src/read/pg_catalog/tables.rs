//! The catalogue's tables. Columns are those of Postgres 15 that clients ask for.

use afflux_catalog::{Object, ObjectKind};
use arrow::record_batch::RecordBatch;
use pgwire::api::Type;

use super::{
    OWNER, Snapshot, oid_of,
    rows::{Row, row, table},
    types,
};
use crate::QueryError;

type Tables = Vec<(&'static str, RecordBatch)>;

const PG_CATALOG: i32 = 11;
const PUBLIC: i32 = 2_200;
const INFORMATION_SCHEMA: i32 = 13_000;
const OWNER_OID: i32 = 10;
const DATABASE_OID: i32 = 5;
/// "heap", the access method that psql does not mention.
const HEAP: i32 = 2;
const SERVER_OID: i32 = 16_000;

/// Tables without a row: Afflux has none of these things.
pub(super) const EMPTY: &[(&str, &str)] = &[
    ("pg_attrdef", "oid:oid adrelid:oid adnum:int2 adbin:text?"),
    ("pg_collation", "oid:oid collname:text collnamespace:oid collowner:oid"),
    (
        "pg_constraint",
        "oid:oid conname:text connamespace:oid contype:text conrelid:oid contypid:oid \
         conindid:oid conparentid:oid confrelid:oid conkey:text? confkey:text? condeferrable:bool \
         condeferred:bool convalidated:bool",
    ),
    ("pg_depend", "classid:oid objid:oid objsubid:int4 refclassid:oid refobjid:oid deptype:text"),
    ("pg_description", "objoid:oid classoid:oid objsubid:int4 description:text"),
    ("pg_enum", "oid:oid enumtypid:oid enumsortorder:int4 enumlabel:text"),
    ("pg_event_trigger", "oid:oid evtname:text"),
    ("pg_extension", "oid:oid extname:text extowner:oid extnamespace:oid extversion:text"),
    (
        "pg_index",
        "indexrelid:oid indrelid:oid indnatts:int2 indnkeyatts:int2 indisunique:bool \
         indisprimary:bool indisexclusion:bool indimmediate:bool indisclustered:bool \
         indisvalid:bool indisready:bool indislive:bool indisreplident:bool indkey:text? \
         indoption:text? indexprs:text? indpred:text?",
    ),
    ("pg_indexes", "schemaname:text tablename:text indexname:text tablespace:text? indexdef:text?"),
    ("pg_inherits", "inhrelid:oid inhparent:oid inhseqno:int4 inhdetachpending:bool"),
    ("pg_language", "oid:oid lanname:text"),
    ("pg_operator", "oid:oid oprname:text oprnamespace:oid"),
    ("pg_partitioned_table", "partrelid:oid partstrat:text partnatts:int2"),
    ("pg_policy", "oid:oid polname:text polrelid:oid polcmd:text polpermissive:bool"),
    (
        "pg_proc",
        "oid:oid proname:text pronamespace:oid prokind:text prorettype:oid proargtypes:text",
    ),
    ("pg_publication", "oid:oid pubname:text puballtables:bool"),
    ("pg_publication_namespace", "oid:oid pnpubid:oid pnnspid:oid"),
    ("pg_publication_rel", "oid:oid prpubid:oid prrelid:oid"),
    ("pg_range", "rngtypid:oid rngsubtype:oid rngmultitypid:oid"),
    ("pg_rewrite", "oid:oid rulename:text ev_class:oid"),
    ("pg_sequence", "seqrelid:oid seqtypid:oid"),
    ("pg_statistic_ext", "oid:oid stxrelid:oid stxname:text stxnamespace:oid"),
    ("pg_tablespace", "oid:oid spcname:text"),
    ("pg_trigger", "oid:oid tgrelid:oid tgname:text tgisinternal:bool"),
];

pub(super) fn pg_catalog(snapshot: &Snapshot) -> Result<Tables, QueryError> {
    let objects = &snapshot.objects;
    let mut tables = Vec::new();
    for (name, columns) in EMPTY {
        tables.push((*name, table(columns, &[])?));
    }
    tables.push(("pg_namespace", namespaces()?));
    tables.push(("pg_class", classes(objects.iter().map(AsRef::as_ref))?));
    tables.push(("pg_attribute", attributes(objects.iter().map(AsRef::as_ref))?));
    tables.push(("pg_type", types_table()?));
    tables.push(("pg_database", database(&snapshot.identity.database)?));
    tables.push((
        "pg_am",
        table(
            "oid:oid amname:text amhandler:text amtype:text",
            &[row! { oid: HEAP, amname: "heap", amtype: "t" }],
        )?,
    ));
    let role = row! {
        oid: OWNER_OID, rolname: OWNER, rolsuper: true, rolinherit: true, rolcreaterole: true,
        rolcreatedb: true, rolcanlogin: true, rolconnlimit: -1, rolbypassrls: true,
    };
    let role_columns = "oid:oid rolname:text rolsuper:bool rolinherit:bool rolcreaterole:bool \
        rolcreatedb:bool rolcanlogin:bool rolreplication:bool rolconnlimit:int4 \
        rolpassword:text? rolvaliduntil:text? rolbypassrls:bool rolconfig:text?";
    tables.push(("pg_roles", table(role_columns, &[role])?));
    let user = row! { usename: OWNER, usesysid: OWNER_OID, usecreatedb: true, usesuper: true };
    let user_columns = "usename:text usesysid:oid usecreatedb:bool usesuper:bool userepl:bool \
        usebypassrls:bool passwd:text? valuntil:text? useconfig:text?";
    tables.push(("pg_user", table(user_columns, &[user])?));
    tables.extend(lists(snapshot)?);
    tables.extend(foreign(snapshot)?);
    Ok(tables)
}

fn kind_of(object: &Object) -> &'static str {
    match object.kind {
        ObjectKind::Source(_) => "f",
        ObjectKind::Table(_) => "r",
        ObjectKind::View(_) => "m",
    }
}

fn namespaces() -> Result<RecordBatch, QueryError> {
    let schema = |oid: i32, name: &str| row! { oid: oid, nspname: name, nspowner: OWNER_OID };
    table(
        "oid:oid nspname:text nspowner:oid nspacl:text?",
        &[
            schema(PG_CATALOG, "pg_catalog"),
            schema(PUBLIC, "public"),
            schema(INFORMATION_SCHEMA, "information_schema"),
        ],
    )
}

fn classes<'a>(objects: impl Iterator<Item = &'a Object>) -> Result<RecordBatch, QueryError> {
    let class = |object: &Object| {
        row! {
            oid: oid_of(object), relname: object.name.as_str(), relnamespace: PUBLIC,
            relowner: OWNER_OID, relam: if kind_of(object) == "f" { 0 } else { HEAP },
            relpersistence: "p", relkind: kind_of(object), relreplident: "n",
            relnatts: object.columns().len() as i32, relispopulated: true, reltuples: -1,
        }
    };
    table(
        "oid:oid relname:text relnamespace:oid reltype:oid reloftype:oid relowner:oid relam:oid \
         relfilenode:oid reltablespace:oid relpages:int4 reltuples:int4 relallvisible:int4 \
         reltoastrelid:oid relhasindex:bool relisshared:bool relpersistence:text relkind:text \
         relnatts:int2 relchecks:int2 relhasrules:bool relhastriggers:bool relhassubclass:bool \
         relrowsecurity:bool relforcerowsecurity:bool relispopulated:bool relreplident:text \
         relispartition:bool relrewrite:oid relacl:text? reloptions:text? relpartbound:text?",
        &objects.map(class).collect::<Vec<_>>(),
    )
}

fn attributes<'a>(objects: impl Iterator<Item = &'a Object>) -> Result<RecordBatch, QueryError> {
    let mut rows: Vec<Row> = Vec::new();
    for object in objects {
        for (n, column) in object.columns().iter().enumerate() {
            let (type_oid, modifier) = types::of_column(column);
            rows.push(row! {
                attrelid: oid_of(object), attname: column.name.as_str(), atttypid: type_oid,
                attnum: n as i32 + 1, atttypmod: modifier, attnotnull: !column.nullable,
                attstorage: "p", attislocal: true, attlen: -1,
            });
        }
    }
    table(
        "attrelid:oid attname:text atttypid:oid attstattarget:int4 attlen:int2 attnum:int2 \
         attndims:int4 atttypmod:int4 attbyval:bool attstorage:text attalign:text \
         attcompression:text attnotnull:bool atthasdef:bool atthasmissing:bool attidentity:text \
         attgenerated:text attisdropped:bool attislocal:bool attinhcount:int4 attcollation:oid \
         attacl:text? attoptions:text? attfdwoptions:text? attmissingval:text?",
        &rows,
    )
}

fn types_table() -> Result<RecordBatch, QueryError> {
    let mut rows = Vec::new();
    for known in types::all() {
        let array = known.array.as_ref().map_or(0, |array| array.oid() as i32);
        let pseudo = matches!(known.pg, Type::RECORD | Type::UNKNOWN);
        rows.push(row! {
            oid: known.pg.oid() as i32, typname: known.pg.name(), typnamespace: PG_CATALOG,
            typowner: OWNER_OID, typlen: known.length, typtype: if pseudo { "p" } else { "b" },
            typcategory: known.category, typisdefined: true, typdelim: ",", typarray: array,
            typinput: format!("{}in", known.pg.name()), typtypmod: -1,
        });
        if let Some(array) = known.array {
            rows.push(row! {
                oid: array.oid() as i32, typname: array.name(), typnamespace: PG_CATALOG,
                typowner: OWNER_OID, typlen: -1, typtype: "b", typcategory: "A",
                typisdefined: true, typdelim: ",", typelem: known.pg.oid() as i32,
                typinput: "array_in", typtypmod: -1,
            });
        }
    }
    table(
        "oid:oid typname:text typnamespace:oid typowner:oid typlen:int2 typbyval:bool \
         typtype:text typcategory:text typispreferred:bool typisdefined:bool typdelim:text \
         typrelid:oid typsubscript:text typelem:oid typarray:oid typinput:text typoutput:text \
         typreceive:text typsend:text typmodin:text typmodout:text typalign:text typstorage:text \
         typnotnull:bool typbasetype:oid typtypmod:int4 typndims:int4 typcollation:oid \
         typdefault:text? typacl:text?",
        &rows,
    )
}

fn database(name: &str) -> Result<RecordBatch, QueryError> {
    // 6 is UTF8 in Postgres's list of encodings.
    let database = row! {
        oid: DATABASE_OID, datname: name, datdba: OWNER_OID, encoding: 6, datlocprovider: "c",
        datcollate: "C", datctype: "C", datallowconn: true, datconnlimit: -1,
    };
    table(
        "oid:oid datname:text datdba:oid encoding:int4 datlocprovider:text datistemplate:bool \
         datallowconn:bool datconnlimit:int4 dattablespace:oid datcollate:text datctype:text \
         daticulocale:text? datcollversion:text? datacl:text?",
        &[database],
    )
}

/// `pg_tables`, `pg_views` and `pg_matviews`.
fn lists(snapshot: &Snapshot) -> Result<Tables, QueryError> {
    let of = |kind: &str| {
        let kind = kind.to_owned();
        snapshot.objects.iter().filter(move |object| kind_of(object) == kind)
    };
    let tables: Vec<_> = of("r")
        .map(|o| row! { schemaname: "public", tablename: o.name.as_str(), tableowner: OWNER })
        .collect();
    let views: Vec<_> = of("m")
        .map(|o| {
            row! {
                schemaname: "public", matviewname: o.name.as_str(), matviewowner: OWNER,
                ispopulated: true, definition: o.sql.as_str(),
            }
        })
        .collect();
    Ok(vec![
        (
            "pg_tables",
            table(
                "schemaname:text tablename:text tableowner:text tablespace:text? hasindexes:bool \
                 hasrules:bool hastriggers:bool rowsecurity:bool",
                &tables,
            )?,
        ),
        ("pg_views", table("schemaname:text viewname:text viewowner:text definition:text?", &[])?),
        (
            "pg_matviews",
            table(
                "schemaname:text matviewname:text matviewowner:text tablespace:text? \
                 hasindexes:bool ispopulated:bool definition:text?",
                &views,
            )?,
        ),
    ])
}

/// Sources are foreign tables of a server that is called `log`.
fn foreign(snapshot: &Snapshot) -> Result<Tables, QueryError> {
    let tables: Vec<_> = snapshot
        .objects
        .iter()
        .filter_map(|object| match &object.kind {
            ObjectKind::Source(source) => Some(row! {
                ftrelid: oid_of(object), ftserver: SERVER_OID,
                ftoptions: format!(
                    "topic '{}', format '{}'",
                    source.topic,
                    format!("{:?}", source.format).to_lowercase()
                ),
            }),
            _ => None,
        })
        .collect();
    Ok(vec![
        ("pg_foreign_table", table("ftrelid:oid ftserver:oid ftoptions:text?", &tables)?),
        (
            "pg_foreign_server",
            table(
                "oid:oid srvname:text srvowner:oid srvfdw:oid srvtype:text? srvversion:text? \
                 srvacl:text? srvoptions:text?",
                &[row! { oid: SERVER_OID, srvname: "log", srvowner: OWNER_OID }],
            )?,
        ),
        ("pg_foreign_data_wrapper", table("oid:oid fdwname:text fdwowner:oid", &[])?),
    ])
}

pub(super) fn information_schema(snapshot: &Snapshot) -> Result<Tables, QueryError> {
    let database = snapshot.identity.database.as_str();
    let kind = |object: &Object| match object.kind {
        ObjectKind::Source(_) => "FOREIGN",
        ObjectKind::Table(_) => "BASE TABLE",
        ObjectKind::View(_) => "VIEW",
    };
    let tables: Vec<_> = snapshot
        .objects
        .iter()
        .map(|object| {
            row! {
                table_catalog: database, table_schema: "public", table_name: object.name.as_str(),
                table_type: kind(object), is_insertable_into: "NO", is_typed: "NO",
            }
        })
        .collect();
    let mut columns = Vec::new();
    for object in &snapshot.objects {
        for (n, column) in object.columns().iter().enumerate() {
            let (type_oid, _) = types::of_column(column);
            let udt =
                Type::from_oid(type_oid as u32).map_or(String::new(), |t| t.name().to_owned());
            columns.push(row! {
                table_catalog: database, table_schema: "public", table_name: object.name.as_str(),
                column_name: column.name.as_str(), ordinal_position: n as i32 + 1,
                is_nullable: if column.nullable { "YES" } else { "NO" },
                data_type: types::format(type_oid, None), udt_catalog: database,
                udt_schema: "pg_catalog", udt_name: udt, is_updatable: "NO",
            });
        }
    }
    let schemata: Vec<_> = ["information_schema", "pg_catalog", "public"]
        .iter()
        .map(|name| row! { catalog_name: database, schema_name: *name, schema_owner: OWNER })
        .collect();
    Ok(vec![
        (
            "tables",
            table(
                "table_catalog:text table_schema:text table_name:text table_type:text \
                 is_insertable_into:text is_typed:text",
                &tables,
            )?,
        ),
        (
            "columns",
            table(
                "table_catalog:text table_schema:text table_name:text column_name:text \
                 ordinal_position:int4 column_default:text? is_nullable:text data_type:text \
                 character_maximum_length:int4? numeric_precision:int4? numeric_scale:int4? \
                 datetime_precision:int4? udt_catalog:text udt_schema:text udt_name:text \
                 is_updatable:text",
                &columns,
            )?,
        ),
        ("schemata", table("catalog_name:text schema_name:text schema_owner:text", &schemata)?),
        (
            "views",
            table(
                "table_catalog:text table_schema:text table_name:text view_definition:text?",
                &[],
            )?,
        ),
    ])
}

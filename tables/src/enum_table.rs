//! Enums whose variants are the rows of a table.

/// Declares an enum with a row of data for each variant, so that a new variant is one line:
///
/// ```text
/// enum_table! {
///     pub(crate) enum Planet: Body {
///         Mercury = Body { moons: 0 },
///         Earth = Body { moons: 1 },
///     }
/// }
/// ```
///
/// `Planet::ALL` has the variants in this order, `Planet::Earth.row()` is a `&'static Body`, and
/// `Planet::Earth as usize` the index of both.
macro_rules! enum_table {
    (
        $(#[$about_enum:meta])*
        $visibility:vis enum $name:ident: $row:ty {
            $($(#[$about:meta])* $variant:ident = $value:expr,)+
        }
    ) => {
        $(#[$about_enum])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $visibility enum $name {
            $($(#[$about])* $variant,)+
        }

        impl $name {
            /// Every variant, in the order of the table.
            #[allow(dead_code, reason = "not every such table is gone through")]
            $visibility const ALL: [$name; [$($name::$variant),+].len()] = [$($name::$variant),+];

            const fn row(self) -> &'static $row {
                match self {
                    $($name::$variant => {
                        const ROW: $row = $value;
                        &ROW
                    })+
                }
            }
        }
    };
}

pub(crate) use enum_table;

#[cfg(test)]
mod tests {
    struct Body {
        moons: u8,
    }

    enum_table! {
        enum Planet: Body {
            Mercury = Body { moons: 0 },
            Earth = Body { moons: 1 },
        }
    }

    #[test]
    fn each_variant_has_its_row_in_the_order_of_the_table() {
        assert_eq!(Planet::ALL, [Planet::Mercury, Planet::Earth]);
        assert_eq!(Planet::ALL.map(|planet| planet.row().moons), [0, 1]);
        assert_eq!(Planet::ALL.map(|planet| planet as usize), [0, 1]);
    }
}

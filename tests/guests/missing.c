/* Imports a function that nobody gives. */
__attribute__((import_module("nobody"), import_name("gives"))) void gives(void);

int main(void)
{
    gives();
    return 0;
}
